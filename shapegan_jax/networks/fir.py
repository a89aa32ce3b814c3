"""Resampling of images and features with StyleGAN2's anti-aliasing filter [1, 3, 3, 1].

Outside an image everything is zero. The filter is separable, so each function filters the rows, then the columns; on a
CPU, sums of slices are faster than depthwise convolutions. Sizes follow Karras et al. 2020 (`upfirdn2d`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def interleave(even: Array, odd: Array, axis: int) -> Array:
  """Interleaves two arrays along an axis: even[0], odd[0], even[1], ..."""
  shape = list(even.shape)
  shape[axis] *= 2
  return jnp.stack([even, odd], axis + 1).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def blur(x: Float[Array, "b h w c"], padding: tuple[int, int], gain: float = 1.0) -> Float[Array, "b h2 w2 c"]:
  """Filters with weights that sum to `gain`^2; each side changes by `sum(padding) - 3` pixels.

  The transpose is the same filter with padding 3 - p, which on a CPU is seven times as fast as XLA's derivative.
  """

  def along(x: Array, axis: int) -> Array:
    x = _padded(x, axis, padding)
    n = x.shape[axis] - 3
    tap = [jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(4)]
    return (gain / 8) * (tap[0] + tap[3] + 3 * (tap[1] + tap[2]))

  return _both(along, x)


blur.defvjp(
  lambda x, padding, gain: (blur(x, padding, gain), None),
  lambda padding, gain, _, g: (blur(g, (3 - padding[0], 3 - padding[1]), gain),),
)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
  """Twice the size: zeros between the pixels, padding (2, 1), filter weights that sum to 4."""

  def along(x: Array, axis: int) -> Array:
    n = x.shape[axis]
    x = _padded(x, axis, (1, 1))
    before, here, after = (jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(3))
    return interleave((before + 3 * here) / 4, (3 * here + after) / 4, axis)

  return _both(along, x)


def downsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Half the size: padding (1, 1), filter weights that sum to 1, every other pixel."""
  return blur(x, (1, 1))[:, ::2, ::2]


def _padded(x: Array, axis: int, padding: tuple[int, int]) -> Array:
  return jnp.pad(x, [padding if i == axis else (0, 0) for i in range(x.ndim)])


def _both(along: Callable[[Array, int], Array], x: Array) -> Array:
  return along(along(x, 1), 2)
