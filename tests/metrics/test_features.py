"""Pictures as features: rounding, batches, names, and that distances of random features order what was done to them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.metrics.distribution import frechet_distance, kernel_distance, moments
from shapegan_jax.metrics.features import FeatureNetwork, collect, quantise
from shapegan_jax.networks.features.random_features import random_features, random_kernels


def test_colours_become_the_nearest_8_bits():
  rgb = np.array([[-0.2, 0.0, 0.499 / 255], [0.501 / 255, 0.5, 1.7]], np.float32)
  np.testing.assert_array_equal(quantise(rgb), [[0, 0, 0], [1, 128, 255]])
  with pytest.raises(UserError, match="not finite"):
    quantise(np.array([[0.1, np.nan, 0.2]], np.float32))


def test_features_do_not_depend_on_how_pictures_are_batched(rng):
  pictures, lengths = rng.integers(0, 256, (11, 4, 4, 3), np.uint8), []

  def apply(batch):
    lengths.append(len(batch))
    flat = batch.reshape(len(batch), -1).astype(np.float32)
    return flat[:, :6], flat[:, :2] / 255

  network = FeatureNetwork("test", apply, "")
  whole = collect(network, [pictures])
  parts = collect(network, [pictures[:4], pictures[4:8], pictures[8:]])
  assert lengths == [11, 4, 4, 4]  # the last is filled up, so that it compiles nothing new
  np.testing.assert_array_equal(parts.vectors, whole.vectors)
  np.testing.assert_array_equal(parts.probabilities, whole.probabilities)
  np.testing.assert_allclose(parts.moments.scatter, np.cov(whole.vectors.T) * 10, rtol=1e-9)
  with pytest.raises(UserError, match="no pictures"):
    collect(network, [])


def test_only_inception_may_be_called_fid():
  names = {name: FeatureNetwork(name, print, "") for name in ("InceptionV3", "AlexNet", "random")}
  assert [x.frechet_name for x in names.values()] == ["FID", "FD-AlexNet", "FD-random"]
  assert [x.kernel_name for x in names.values()] == ["KID", "KD-AlexNet", "KD-random"]


def test_random_kernels_are_these_forever_and_see_no_plain_brightness():
  kernels = random_kernels()
  np.testing.assert_allclose(kernels[0][0, 0, :, 0], [3.2764096, -1.527498, 0.4697101], rtol=1e-6)
  assert [kernel.shape for kernel in kernels] == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)]
  for kernel, same, other in zip(kernels, random_kernels(), random_kernels(seed=1), strict=True):
    np.testing.assert_array_equal(kernel, same)
    assert not np.allclose(kernel, other)
    np.testing.assert_allclose(kernel.sum((0, 1)), 0, atol=1e-5)


def _blobs(rng, n):
  """Pictures of a bright disc somewhere on a coloured ground."""
  y, x = np.mgrid[:16, :16] / 15
  place, radius = rng.uniform(0.3, 0.7, (n, 2, 1, 1)), rng.uniform(0.15, 0.35, (n, 1, 1))
  inside = ((y - place[:, 0]) ** 2 + (x - place[:, 1]) ** 2 < radius**2)[..., None]
  return np.where(inside, rng.uniform(0.6, 0.9, (n, 1, 1, 3)), rng.uniform(0.1, 0.4, (n, 1, 1, 3)))


def test_distances_of_random_features_grow_with_blur_noise_and_collapse(rng):
  kernels = random_kernels()
  forward = jax.jit(lambda images: random_features(kernels, images))

  def features(pictures):
    # Every fourth feature: the eigenvalues of small matrices take no time.
    return np.asarray(forward(jnp.asarray(2 * pictures - 1, jnp.float32)))[:, ::4]

  def blurred(pictures, times):
    for _ in range(times):
      for axis in (1, 2):
        pictures = (np.roll(pictures, 1, axis) + 2 * pictures + np.roll(pictures, -1, axis)) / 4
    return pictures

  real, other = features(_blobs(rng, 200)), _blobs(rng, 200)
  noise = rng.standard_normal(other.shape)
  rows = {
    "blur": [other, blurred(other, 1), blurred(other, 2), blurred(other, 6)],
    "noise": [other, other + 0.05 * noise, other + 0.1 * noise, other + 0.2 * noise],
    "collapse": [other, other[np.arange(200) % 30], other[np.arange(200) % 5]],
  }
  for name, sets in rows.items():
    found = [features(pictures) for pictures in sets]
    frechet = [frechet_distance(moments(real), moments(x)) for x in found]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(frechet)), (name, frechet)
    kernel = [kernel_distance(real, x, subsets=5).mean for x in found]
    if name != "collapse":  # which hardly moves a mean
      assert sorted(kernel) == kernel, (name, kernel)
