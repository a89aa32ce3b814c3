"""Convolutions whose derivatives of every order are fast, which a penalty on a gradient needs.

XLA derives the gradient of a convolution as another convolution with dilated inputs or windows as large as the picture.
Of first order these are quick enough, but not their own gradients: on a CPU R1 of a small discriminator took twenty
times as long as the rest of a step. Here every derivative is again one of two convolutions of stride 1, or a matrix
product.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.fir import blur, interleave


@jax.custom_vjp
def correlate(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"]) -> Float[Array, "b h w o"]:
  """2D cross-correlation with zero padding; k is odd."""
  if kernel.shape[0] == 1:
    return x @ kernel[0, 0]
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_gradient(
  x: Float[Array, "b h w i"], g: Float[Array, "b h w o"], size: int
) -> Float[Array, "size size i o"]:
  """The gradient of sum(g * correlate(x, kernel)) in a kernel of this size."""
  padding = ((size // 2,) * 2,) * 2
  return jax.lax.conv_general_dilated(x, g, (1, 1), padding, dimension_numbers=("CHWN", "IHWO", "HWNC"))


def _adjoint(kernel: Float[Array, "k k i o"]) -> Float[Array, "k k o i"]:
  """Correlating with it is the transpose of correlating with `kernel`."""
  return kernel[::-1, ::-1].transpose(0, 1, 3, 2)


# <c, kernel_gradient(x, g)> = <g, correlate(x, c)> = <correlate(g, adjoint(c)), x>.
correlate.defvjp(
  lambda x, kernel: (correlate(x, kernel), (x, kernel)),
  lambda saved, g: (correlate(g, _adjoint(saved[1])), kernel_gradient(saved[0], g, saved[1].shape[0])),
)
kernel_gradient.defvjp(
  lambda x, g, size: (kernel_gradient(x, g, size), (x, g)),
  lambda size, saved, c: (correlate(saved[1], _adjoint(c)), correlate(saved[0], c)),
)


def halving_correlate(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h2 w2 o"]:
  """Every other pixel of a correlation without padding, of sides 2 n + 1: n pixels a side, as one matrix product."""
  b, h, w, i = x.shape
  height, width = h // 2, w // 2
  # [row, row parity, column, column parity], with a row and a column that nothing reads.
  parts = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))).reshape(b, height + 1, 2, width + 1, 2, i)
  taps = [
    parts[:, r // 2 : r // 2 + height, r % 2, c // 2 : c // 2 + width, c % 2] for r in range(3) for c in range(3)
  ]
  return jnp.concatenate(taps, -1) @ kernel.reshape(9 * i, -1)


def doubling_convolve(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b 2*h 2*w o"]:
  """Zeros between the pixels, correlation with `kernel` (padded to 2 h + 1), the filter of sum 4 with padding (1, 1).

  A pixel meets each of the nine taps once: one matrix product at the small size, whose columns are added where they
  fall. That is a quarter of the arithmetic of a convolution at the large size.
  """
  b, h, w, i = x.shape
  taps = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(i, -1)
  y = (x.reshape(-1, i) @ taps).reshape(b, h, w, 3, 3, -1)
  y = _overlap(y[:, :, :, 0], y[:, :, :, 1], y[:, :, :, 2], 1)  # [b, 2 h + 2, w, 3, o]
  y = _overlap(y[:, :, :, 0], y[:, :, :, 1], y[:, :, :, 2], 2)  # [b, 2 h + 2, 2 w + 2, o]; the last ones are zero
  return blur(y, (1, 0), gain=2.0)


def _overlap(first: Array, middle: Array, last: Array, axis: int) -> Array:
  """What pixel n puts at 2 n, 2 n + 1 and 2 n + 2, added up; then a zero, for an even length."""
  after, before = ([(0, 0)] * first.ndim for _ in range(2))
  after[axis], before[axis] = (0, 1), (1, 0)
  return interleave(jnp.pad(first, after) + jnp.pad(last, before), jnp.pad(middle, after), axis)
