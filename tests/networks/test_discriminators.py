"""Discriminators: sizes, blocks against plain formulas, and the laws of growing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.networks.discriminators import (
  PooledBlock,
  ProgressiveDiscriminator,
  StridedBlock,
  StridedDiscriminator,
)
from shapegan_jax.planning.costs import flops

NARROW = {"max_resolution": 16, "width_multiplier": 0.02, "max_channels": 6}


def _count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  ("discriminator", "count"),
  [
    (ProgressiveDiscriminator(), 12_412_465),
    (ProgressiveDiscriminator(latent_dim=256, pose=True), 12_825_523),
    # The released model also carries a 2 -> 400 linear layer (1,200 numbers) that nothing reads: 12,805,489.
    (StridedDiscriminator(coord=False), 12_805_489 - 1_200),
    (StridedDiscriminator(latent_dim=256, pose=True), 13_291_075),
  ],
)
def test_parameter_counts_are_the_published_ones(key, discriminator, count):
  assert _count(jax.eval_shape(discriminator.init_params, key)) == count


def _convolve(x, layer, *, stride=1, padding=0, coord=False):
  """Cross-correlation by a loop over the kernel's cells, with the coordinates concatenated as published."""
  x, kernel = np.asarray(x, np.float64), np.asarray(layer["kernel"], np.float64)
  if coord:
    rows, columns = np.linspace(-1, 1, x.shape[1]), np.linspace(-1, 1, x.shape[2])
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    x = np.concatenate([x, np.broadcast_to(grid, (*x.shape[:3], 2))], -1)
  x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  size = kernel.shape[0]
  height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
  out = 0
  for i in range(size):
    for j in range(size):
      out = out + x[:, i : i + stride * height : stride, j : j + stride * width : stride] @ kernel[i, j]
  return out + np.asarray(layer["bias"])


def _leaky(x):
  return np.where(x > 0, x, 0.2 * x)


def _halve(x):
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


@pytest.mark.parametrize("coord", [True, False])
def test_pooled_block_is_its_formula(key, rng, coord):
  x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)
  block = PooledBlock(3, 5, coord)
  variables = block.init(key, jnp.asarray(x))
  w = variables["params"]
  y = _leaky(_convolve(x, w["conv_0"], padding=1, coord=coord))
  y = _leaky(_convolve(y, w["conv_1"], padding=1, coord=coord))
  expected = (_halve(y) + _convolve(_halve(x), w["skip"])) / np.sqrt(2)
  np.testing.assert_allclose(block.apply(variables, jnp.asarray(x)), expected, atol=1e-5)


@pytest.mark.parametrize("coord", [True, False])
def test_strided_block_is_its_formula(key, rng, coord):
  x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)
  block = StridedBlock(3, 5, coord)
  variables = block.init(key, jnp.asarray(x))
  w = variables["params"]
  y = _leaky(_convolve(x, w["conv_0"], padding=1, coord=coord))
  y = _leaky(_convolve(y, w["conv_1"], padding=1, stride=2, coord=coord))
  expected = (y + _convolve(x, w["skip"], stride=2)) / np.sqrt(2)
  np.testing.assert_allclose(block.apply(variables, jnp.asarray(x)), expected, atol=1e-5)


def test_the_skip_path_is_projected_only_where_the_width_changes(key):
  assert "skip" not in PooledBlock(3, 3).init(key, jnp.zeros((1, 4, 4, 3)))["params"]
  assert "skip" in StridedBlock(3, 3).init(key, jnp.zeros((1, 4, 4, 3)))["params"]


@pytest.mark.parametrize("kind", [ProgressiveDiscriminator, StridedDiscriminator])
def test_growing_fades_from_the_smaller_discriminator_to_the_larger(key, rng, kind):
  discriminator = kind(**NARROW, pose=True)
  variables = discriminator.init_params(key)
  image = jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
  apply = jax.jit(lambda x, fade: discriminator.apply(variables, x, fade))
  grown = discriminator.apply(variables, image)
  np.testing.assert_allclose(apply(image, jnp.float32(1)).logit, grown.logit, atol=1e-6)
  np.testing.assert_allclose(discriminator.apply(variables, image, 0.3, fading=False).logit, grown.logit, atol=1e-6)
  # A fully faded-out fromRGB layer leaves the discriminator of half the size, on every second pixel.
  half = discriminator.apply(variables, image[:, ::2, ::2])
  np.testing.assert_allclose(apply(image, jnp.float32(0)).logit, half.logit, atol=1e-6)
  np.testing.assert_allclose(apply(image, jnp.float32(0)).pose, half.pose, atol=1e-6)
  between = apply(image, jnp.float32(0.5)).logit
  assert np.abs(between - grown.logit).min() > 1e-6
  assert np.abs(between - half.logit).min() > 1e-6


def test_without_fading_the_half_resolution_path_is_not_in_the_program(key):
  discriminator = ProgressiveDiscriminator(**NARROW)
  variables, image = jax.eval_shape(discriminator.init_params, key), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)

  def cost(**settings):
    return flops(lambda v, x: discriminator.apply(v, x, **settings).logit, variables, image).products

  assert cost(fading=False) == cost(fade=1.0) < cost(fade=0.5)


def test_every_resolution_has_its_parameters_whatever_the_first_image(key):
  discriminator = ProgressiveDiscriminator(**NARROW)
  variables = discriminator.init_params(key)
  assert {f"entrances_{n}" for n in (16, 8, 4, 2)} <= set(variables["params"])
  for size in (4, 16):
    other = discriminator.init(key, jnp.zeros((1, size, size, 3)))
    assert jax.tree.structure(other) == jax.tree.structure(variables)
    for a, b in zip(*map(jax.tree.leaves, (other, variables)), strict=True):
      np.testing.assert_array_equal(a, b)


def test_heads_are_logit_then_latent_then_pose(key, rng):
  discriminator = StridedDiscriminator(**NARROW, latent_dim=5, pose=True)
  variables = discriminator.init_params(key)
  variables["params"]["heads"] = {"kernel": jnp.zeros((2, 2, 6, 8)), "bias": jnp.arange(8.0)}
  answer = discriminator.apply(variables, jnp.zeros((1, 8, 8, 3)))
  np.testing.assert_array_equal(answer.logit, [0])
  np.testing.assert_array_equal(answer.latent, [[1, 2, 3, 4, 5]])
  np.testing.assert_array_equal(answer.pose, [[6, 7]])
  plain, _ = StridedDiscriminator(**NARROW).init_with_output(key, jnp.zeros((1, 4, 4, 3)))
  assert plain.latent is None
  assert plain.pose is None


@pytest.mark.parametrize("size", [12, 32])
def test_an_image_size_it_cannot_read_is_named_with_the_remedy(key, size):
  discriminator = ProgressiveDiscriminator(**NARROW)
  with pytest.raises(UserError, match=f"{size}x{size}.*4, 8, 16.*max_resolution"):
    discriminator.init(key, jnp.zeros((1, size, size, 3)))


def test_only_strided_block_kernels_start_kaiming_normal(key):
  params = StridedDiscriminator(max_resolution=8, max_channels=100).init_params(key)["params"]
  fan_in = 9 * 102
  np.testing.assert_allclose(np.std(params["blocks_8"]["conv_0"]["kernel"]), np.sqrt(2 / 1.04 / fan_in), rtol=0.02)
  assert np.abs(params["blocks_8"]["skip"]["kernel"]).max() <= 1 / 10
  params = PooledBlock(100, 100).init(key, jnp.zeros((1, 2, 2, 100)))["params"]
  np.testing.assert_allclose(np.std(params["conv_0"]["kernel"]), 1 / np.sqrt(3 * fan_in), rtol=0.02)
