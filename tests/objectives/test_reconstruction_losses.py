"""The reconstruction losses: closed forms, slow references, and who learns from them."""

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.objectives.reconstruction import masked_feature_distance, masked_l1, shrink_mask, smoothness


def test_masked_l1_is_the_weighted_mean_and_nothing_for_an_empty_mask(rng):
  image, target = rng.normal(size=(2, 2, 4, 5, 3)).astype(np.float32)
  mask = rng.uniform(size=(2, 4, 5)).astype(np.float32)
  expected = np.average(np.abs(image - target).mean(-1), weights=mask)
  image, target, mask = map(jnp.asarray, (image, target, mask))
  np.testing.assert_allclose(masked_l1(image, target, mask), expected, rtol=1e-5)
  empty = jnp.zeros((2, 4, 5))
  value, slope = jax.value_and_grad(masked_l1)(image, target, empty)
  assert value == 0
  assert not np.any(slope)


def test_smoothness_sees_bends_and_no_slopes(rng):
  y, x = np.mgrid[:6, :7].astype(np.float32)
  plane = jnp.asarray(0.3 * x - 2 * y + 1)[None]
  np.testing.assert_allclose(smoothness(plane), 0, atol=1e-5)
  # Of x^2/2 only the xx differences are not 0, and they are 1; of x y only the mixed ones, which count twice.
  np.testing.assert_allclose(smoothness(jnp.asarray(x**2 / 2)[None]), 1, rtol=1e-5)
  np.testing.assert_allclose(smoothness(jnp.asarray(x * y)[None]), 2, rtol=1e-5)


def test_features_are_compared_layer_by_layer_where_the_mask_is(rng):
  layers = [rng.normal(size=(2, n, n, c)).astype(np.float32) for n, c in ((4, 3), (2, 5))]
  others = [rng.normal(size=layer.shape).astype(np.float32) for layer in layers]
  mask = rng.uniform(size=(2, 8, 8)).astype(np.float32)
  expected = 0.0
  for ours, theirs in zip(layers, others, strict=True):
    n = ours.shape[1]
    small = mask.reshape(2, n, 8 // n, n, 8 // n).mean((2, 4))
    np.testing.assert_allclose(shrink_mask(jnp.asarray(mask), n), small, rtol=1e-5)
    expected += np.average(np.abs(ours - theirs).mean(-1), weights=small)
  layers, others = (tuple(map(jnp.asarray, part)) for part in (layers, others))
  np.testing.assert_allclose(masked_feature_distance(layers, others, jnp.asarray(mask)), expected, rtol=1e-5)
  ours, theirs = jax.grad(masked_feature_distance, (0, 1))(layers, others, jnp.asarray(mask))
  assert all(np.any(slope) for slope in ours)
  assert not any(np.any(slope) for slope in theirs)
