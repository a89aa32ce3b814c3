from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks.depth_net import InitialTransposedConv, MapNet, StridedTransposedConv, depth_from_raw


def test_layers_are_transposed_convolutions(key):
  x = jax.random.normal(key, (2, 3, 4, 5))
  double = StridedTransposedConv(6)
  variables = double.init(key, x)
  expected = jax.lax.conv_transpose(x, variables["params"]["kernel"], (2, 2), "SAME")
  np.testing.assert_allclose(double.apply(variables, x), expected, atol=1e-5)
  spread, x = InitialTransposedConv(6), x[:, :1, :1]
  variables = spread.init(key, x)
  expected = jax.lax.conv_transpose(x, variables["params"]["kernel"], (1, 1), "VALID")
  np.testing.assert_allclose(spread.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize(
  ("resolution", "width", "features", "published"),
  [(64, 64, 1, 12.98e6), (64, 64, 3, 12.98e6), (128, 32, 1, 12.95e6)],
)
def test_the_published_sizes_have_the_published_number_of_parameters(resolution, width, features, published):
  net = MapNet(resolution, width, features=features)
  shapes = jax.eval_shape(lambda key: net.init(key, jnp.zeros((1, resolution, resolution, 3))), jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert abs(count - published) < 0.005e6 + 5000 * (features > 1)


def test_a_map_of_the_pictures_size_that_knows_all_of_the_picture(key):
  net = MapNet(16, 4, 8, features=2)
  params = net.init_params(key)
  image = jax.random.uniform(key, (2, 16, 16, 3), minval=-1.0)
  apply = jax.jit(net.apply)
  out = apply(params, image)
  assert out.shape == (2, 16, 16, 2)
  changed = apply(params, image.at[0, 0, 0, 0].add(0.5)) - out
  # One pixel speaks to all of its own picture, through the bottleneck, and to no other.
  assert np.all(jnp.any(changed[0] != 0, -1))
  assert np.all(changed[1] == 0)
  gradient = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, image) ** 2)))(params)
  for name, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.any(leaf != 0), f"{jax.tree_util.keystr(name)} has no part in the answer"


def test_depth_lies_in_its_range_and_centring_removes_the_offset(key):
  raw = 3 * jax.random.normal(key, (2, 4, 4, 1))
  depth = depth_from_raw(raw, near=0.9, far=1.1)
  np.testing.assert_allclose(depth, 1.0 + 0.1 * np.tanh(raw[..., 0]), rtol=1e-6)
  np.testing.assert_allclose(depth_from_raw(jnp.array([[[[-99.0]], [[99.0]]]]), near=0.9, far=1.1).ravel(), [0.9, 1.1])
  centred = depth_from_raw(raw, near=0.9, far=1.1, centre=True)
  np.testing.assert_allclose(depth_from_raw(raw + 2, near=0.9, far=1.1, centre=True), centred, atol=1e-6)
  assert np.abs(centred - depth).max() > 1e-3
