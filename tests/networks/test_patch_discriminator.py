"""GRAF's discriminator against plain loops, and the laws of its spectral norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator, SpectralConv, instance_norm


def matrix(kernel):
  return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def advanced(module, variables, times=1):
  step = jax.jit(lambda v: module.apply(v, method="advance", mutable=["spectral"])[1])
  for _ in range(times):
    variables = {**variables, **step(variables)}
  return variables


def test_parameter_count_is_the_published_one(key):
  variables = jax.eval_shape(PatchDiscriminator().init_params, key)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 2_635_776
  vectors = [(leaf["u"].size, leaf["v"].size) for leaf in variables["spectral"].values()]
  assert vectors == [(128, 48), (256, 2048), (512, 4096), (1, 8192)]


def convolve(x, kernel, *, stride, padding):
  """Cross-correlation by a loop over the kernel's cells."""
  x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  size = kernel.shape[0]
  height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
  out = 0
  for i in range(size):
    for j in range(size):
      out = out + x[:, i : i + stride * height : stride, j : j + stride * width : stride] @ kernel[i, j]
  return out


@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_logits_are_the_formula(key, rng, resolution):
  """Including: the first layer is normalised in patches up to 32 pixels, and not in larger ones."""
  discriminator = PatchDiscriminator(resolution=resolution, width_multiplier=0.02)
  variables = discriminator.init_params(key)
  image = rng.uniform(-1, 1, (2, resolution, resolution, 3)).astype(np.float32)
  x, layers = image.astype(np.float64), sorted(variables["params"])
  for i, name in enumerate(layers):
    kernel = np.asarray(variables["params"][name]["kernel"], np.float64)
    u, v = (np.asarray(variables["spectral"][name][vector], np.float64) for vector in "uv")
    kernel = kernel / np.einsum("hwi,hwio,o->", v, kernel, u)
    last = i == len(layers) - 1
    x = convolve(x, kernel, stride=1 if last else 2, padding=0 if last else 1)
    if last:
      break
    if i > 0 or resolution <= 32:
      x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    x = np.where(x > 0, x, 0.2 * x)
  assert x.shape == (2, 1, 1, 1)
  np.testing.assert_allclose(discriminator.apply(variables, jnp.asarray(image)).logit, x.ravel(), rtol=2e-4, atol=1e-4)


def test_power_iteration_finds_the_largest_singular_value(key, rng):
  conv = SpectralConv(3, 7, 4)
  variables = conv.init(key, jnp.zeros((1, 4, 4, 3)))
  largest = np.linalg.svd(matrix(variables["params"]["kernel"]), compute_uv=False)[0]
  first = conv.apply(variables, method="spectral_norm")
  done = advanced(conv, variables, 200)
  np.testing.assert_allclose(conv.apply(done, method="spectral_norm"), largest, rtol=1e-4)
  assert first < 0.98 * largest  # a lower bound from any two unit vectors
  u, v = done["spectral"]["u"], done["spectral"]["v"]
  np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1, rtol=1e-5)
  # So the layer never stretches its input by more than 1, and by 1 at worst.
  x = jnp.asarray(rng.standard_normal((50, 4, 4, 3)), jnp.float32)
  stretch = np.linalg.norm(conv.apply(done, x).reshape(50, -1), axis=-1) / np.linalg.norm(x.reshape(50, -1), axis=-1)
  assert stretch.max() <= 1
  np.testing.assert_allclose(np.linalg.norm(conv.apply(done, v[None])), 1, rtol=1e-4)


def test_one_step_of_power_iteration_is_the_formula(key):
  discriminator = PatchDiscriminator(resolution=16, width_multiplier=0.02)
  before = discriminator.init_params(key)
  after = advanced(discriminator, before)
  assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
  for name, vectors in before["spectral"].items():
    w, u = matrix(before["params"][name]["kernel"]), np.asarray(vectors["u"], np.float64)
    v = w @ u / np.linalg.norm(w @ u)
    np.testing.assert_allclose(after["spectral"][name]["v"].ravel(), v, atol=1e-5)
    np.testing.assert_allclose(after["spectral"][name]["u"], w.T @ v / np.linalg.norm(w.T @ v), atol=1e-5)


def test_the_gradient_runs_through_the_kernel_and_not_through_the_vectors(key, rng):
  """sum(W / s) with s = v^T W u: d/dW = 1/s - sum(W) v u^T / s^2."""
  conv = SpectralConv(2, 3, 2)
  variables = conv.init(key, jnp.zeros((1, 2, 2, 2)))
  x = jnp.asarray(rng.standard_normal((1, 2, 2, 2)), jnp.float32)
  gradient = jax.grad(lambda params: conv.apply({**variables, "params": params}, x).sum())(variables["params"])
  w, column = matrix(variables["params"]["kernel"]), np.asarray(x, np.float64).reshape(-1, 1)
  u, v = (np.asarray(variables["spectral"][name], np.float64).ravel() for name in "uv")
  s = v @ w @ u
  expected = np.repeat(column, 3, 1) / s - (column.T @ w).sum() * np.outer(v, u) / s**2
  np.testing.assert_allclose(matrix(gradient["kernel"]), expected, rtol=1e-4, atol=1e-5)


def test_instance_norm_gives_every_channel_of_every_image_mean_0_and_deviation_1(rng):
  x = (rng.standard_normal((2, 6, 5, 3)) * [1.0, 10.0, 0.0] + 4.0).astype(np.float32)
  y = np.asarray(instance_norm(jnp.asarray(x)))
  np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(y.std((1, 2)), [[1, 1, 0]] * 2, atol=1e-4)


def test_a_patch_of_another_size_is_named(key):
  discriminator = PatchDiscriminator(resolution=8, width_multiplier=0.02)
  variables = discriminator.init_params(key)
  with pytest.raises(UserError, match="reads patches of 8x8 pixels, not 16x16"):
    discriminator.apply(variables, jnp.zeros((1, 16, 16, 3)))
  with pytest.raises(UserError, match="cannot read patches of 24 pixels: choose one of 8, 16, 32, 64, 128"):
    PatchDiscriminator(resolution=24).init_params(key)
