"""Convolutions and filters against plain loops, and their derivatives of both orders against XLA's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks import fir
from shapegan_jax.networks.convolutions import (
  adjoint,
  correlate,
  correlate_transpose,
  kernel_gradient,
  upsampling_correlate,
)

FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def upfirdn(x, kernel, up, down, before, after):
  """Zeros between the pixels of [h, w], padding, correlation with a symmetric kernel, every `down`-th pixel."""
  h, w = x.shape
  stuffed = np.zeros((h * up, w * up))
  stuffed[::up, ::up] = x
  stuffed = np.pad(stuffed, (before, after))
  n = kernel.shape[0]
  rows, columns = (s - n + 1 for s in stuffed.shape)
  out = [[np.sum(stuffed[i : i + n, j : j + n] * kernel) for j in range(columns)] for i in range(rows)]
  return np.array(out)[::down, ::down]


def one_channel(x):
  return jnp.asarray(x, jnp.float32)[None, ..., None]


def test_filters_are_those_of_the_paper(rng):
  x = rng.normal(size=(6, 4))
  for ours, expected in (
    (fir.blur(one_channel(x), (2, 2)), upfirdn(x, FILTER, 1, 1, 2, 2)),
    (fir.blur(one_channel(x), (1, 1), 2.0), upfirdn(x, 4 * FILTER, 1, 1, 1, 1)),
    (fir.upsample(one_channel(x)), upfirdn(x, 4 * FILTER, 2, 1, 2, 1)),
    (fir.downsample(one_channel(x)), upfirdn(x, FILTER, 1, 2, 1, 1)),
  ):
    np.testing.assert_allclose(ours[0, ..., 0], expected, atol=1e-6)


def test_a_constant_picture_stays_constant_but_at_its_edge():
  ones = jnp.ones((1, 8, 8, 2))
  np.testing.assert_allclose(fir.upsample(ones)[:, 1:-1, 1:-1], 1.0, rtol=1e-6)
  np.testing.assert_allclose(fir.downsample(ones)[:, 1:-1, 1:-1], 1.0, rtol=1e-6)
  np.testing.assert_allclose(fir.blur(ones, (2, 2))[:, 2:-2, 2:-2], 1.0, rtol=1e-6)
  # A kernel whose taps sum to 1: of every four pixels between the zeros one is there, which the filter makes up for.
  kernel = jnp.full((3, 3, 2, 1), 1 / 18)
  np.testing.assert_allclose(upsampling_correlate(ones, kernel)[:, 3:-3, 3:-3], 1.0, rtol=1e-6)


def test_the_transpose_of_the_blur_is_its_transpose(rng):
  x = jnp.asarray(rng.normal(size=(2, 5, 6, 3)), jnp.float32)
  for padding in ((2, 2), (1, 1), (1, 0)):
    y, pull_back = jax.vjp(lambda x: fir.blur(x, padding, 2.0), x)  # noqa: B023
    g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    np.testing.assert_allclose(jnp.sum(pull_back(g)[0] * x), jnp.sum(g * y), rtol=2e-5)


def test_an_impulse_doubles_to_the_filtered_kernel(rng):
  kernel = rng.normal(size=(3, 3))
  x = np.zeros((5, 5))
  x[2, 2] = 1
  stuffed = np.zeros((11, 11))
  stuffed[1:10:2, 1:10:2] = x
  padded = np.pad(stuffed, 1)  # so that correlating with the kernel leaves 11 = 2 * 5 + 1
  full = np.array([[np.sum(padded[i : i + 3, j : j + 3] * kernel) for j in range(11)] for i in range(11)])
  expected = upfirdn(full, 4 * FILTER, 1, 1, 1, 1)
  ours = upsampling_correlate(one_channel(x), jnp.asarray(kernel, jnp.float32)[..., None, None])
  assert ours.shape == (1, 10, 10, 1)
  np.testing.assert_allclose(ours[0, ..., 0], expected, atol=1e-5)


def plain(x, kernel, stride):
  """XLA's convolution with its own derivatives."""
  padding = kernel.shape[0] // 2 if stride == 1 else 0
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2)])
def test_three_sides_of_one_form_and_their_derivatives(size, stride, rng):
  side, small = (7, 3) if stride == 2 else (6, 6)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  x, kernel, g = draw(2, side, side, 3), draw(size, size, 3, 4), draw(2, small, small, 4)
  np.testing.assert_allclose(correlate(x, kernel, stride), plain(x, kernel, stride), atol=1e-4)
  form = jnp.sum(g * correlate(x, kernel, stride))
  np.testing.assert_allclose(jnp.sum(x * correlate_transpose(g, kernel, stride)), form, rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(jnp.sum(kernel * kernel_gradient(x, g, size, stride)), form, rtol=1e-4, atol=1e-3)
  if stride == 1:
    np.testing.assert_allclose(correlate_transpose(g, kernel), correlate(g, adjoint(kernel)), atol=1e-4)

  def penalty(convolve, x, kernel):
    """As R1: its gradient needs derivatives of derivatives in both arguments."""
    return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel, stride))))(x) ** 2)

  ours, theirs = (
    jax.grad(lambda x, k: penalty(convolve, x, k), argnums=(0, 1))(x, kernel)  # noqa: B023
    for convolve in (correlate, plain)
  )
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_the_kernels_gradient_can_be_penalised_too(rng):
  x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((1, 5, 5, 2), (3, 3, 2, 2)))

  def penalty(convolve, x, kernel):
    return jnp.sum(jax.grad(lambda k: jnp.sum(convolve(x, k, 2) ** 2))(kernel) ** 2)

  for argument in (0, 1):
    ours, theirs = (
      jax.grad(lambda *a: penalty(convolve, *a), argnums=argument)(x, kernel)  # noqa: B023
      for convolve in (correlate, plain)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(jnp.abs(theirs).max()))
