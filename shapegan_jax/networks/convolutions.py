"""Convolutions whose derivatives of every order are fast, as needed by penalties on gradients (R1, path length).

<correlate(x, k), g> = <x, correlate_transpose(g, k)> = <k, kernel_gradient(x, g)> is one trilinear form, so the
derivatives of each function are the other two. XLA's own rules are as fast for first derivatives but not for second
ones: on a CPU they made the gradients of R1 and of path lengths ten to twenty times as slow.
"""

from __future__ import annotations

from functools import partial

import jax
from jaxtyping import Array, Float

from shapegan_jax.networks.fir import blur


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], stride: int = 1) -> Float[Array, "b p q o"]:
  """2D cross-correlation: zero-padded to the same size (k odd), or with stride 2 and k = 3 unpadded (2 n + 1 -> n)."""
  if kernel.shape[0] == 1:
    return x @ kernel[0, 0]
  return _convolution(x, kernel, _padding(kernel.shape[0], stride), window_strides=(stride, stride))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate_transpose(
  g: Float[Array, "b p q o"], kernel: Float[Array, "k k i o"], stride: int = 1
) -> Float[Array, "b h w i"]:
  """The transpose of `correlate` with respect to x (a transposed convolution)."""
  size = kernel.shape[0]
  if size == 1:
    return g @ kernel[0, 0].T
  padding = size - 1 - _padding(size, stride)
  return _convolution(g, adjoint(kernel), padding, lhs_dilation=(stride, stride))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def kernel_gradient(
  x: Float[Array, "b h w i"], g: Float[Array, "b p q o"], size: int, stride: int = 1
) -> Float[Array, "size size i o"]:
  """The transpose of `correlate` with respect to the kernel."""
  x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
  return _convolution(x, g, _padding(size, stride), rhs_dilation=(stride, stride)).transpose(1, 2, 0, 3)


correlate.defvjp(
  lambda x, kernel, stride: (correlate(x, kernel, stride), (x, kernel)),
  lambda stride, saved, g: (
    correlate_transpose(g, saved[1], stride),
    kernel_gradient(saved[0], g, saved[1].shape[0], stride),
  ),
)
correlate_transpose.defvjp(
  lambda g, kernel, stride: (correlate_transpose(g, kernel, stride), (g, kernel)),
  lambda stride, saved, x: (
    correlate(x, saved[1], stride),
    kernel_gradient(x, saved[0], saved[1].shape[0], stride),
  ),
)
kernel_gradient.defvjp(
  lambda x, g, size, stride: (kernel_gradient(x, g, size, stride), (x, g)),
  lambda size, stride, saved, kernel: (
    correlate_transpose(saved[1], kernel, stride),
    correlate(saved[0], kernel, stride),
  ),
)


def adjoint(kernel: Float[Array, "k k i o"]) -> Float[Array, "k k o i"]:
  """Flipped in space, channels swapped: correlating with it is the transpose of correlating with `kernel`."""
  return kernel[::-1, ::-1].transpose(0, 1, 3, 2)


def downsampling_correlate(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h2 w2 o"]:
  """Correlation with stride 2 and without padding: sides of 2 n + 1 pixels become n."""
  return correlate(x, kernel, 2)


def upsampling_correlate(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b 2*h 2*w o"]:
  """Zeros between the pixels, correlation with `kernel` (padded to 2 h + 1), `blur` with gain 2 and padding (1, 1)."""
  return blur(correlate_transpose(x, adjoint(kernel), 2), (1, 1), 2.0)


def _padding(size: int, stride: int) -> int:
  return size // 2 if stride == 1 else 0


def _convolution(x: Array, kernel: Array, padding: int, window_strides: tuple[int, int] = (1, 1), **dilations) -> Array:
  # Always in this order of axes: inside `lax.cond` it is the only one that is fast on XLA's CPU backend.
  dimensions = ("NHWC", "HWIO", "NHWC")
  sides = ((padding, padding),) * 2
  return jax.lax.conv_general_dilated(x, kernel, window_strides, sides, dimension_numbers=dimensions, **dilations)
