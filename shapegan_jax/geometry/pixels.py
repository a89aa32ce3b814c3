"""Image points of rays: the full pixel grid, and patches of it (GRAF).

Image points are (x to the right, y up), both from -1 to 1 over the image. A patch is a regular grid of K x K points in
an n x m image, given by its K rows (from the top) and K columns (from the left), each from -1 (first pixel) to 1 (last
pixel). Its points may lie between pixels.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from shapegan_jax.types import Key

Align = Literal["corners", "centres", "left"]
"""The coordinate of pixel i of n. "corners": 2i / (n - 1) - 1, so that the outermost are at -1 and 1 (pi-GAN and the
methods based on it); a pixel is 2 / (n - 1) wide and the image extends half a pixel beyond `fov` on each side.
"centres": the centres of n equal intervals, (2i + 1) / n - 1. "left": their left (upper) ends, 2i / n - 1 (NeRF's code
and GRAF)."""


def pixel_grid(height: int, width: int, *, align: Align = "corners") -> Float[Array, "{height} {width} 2"]:
  """One point (x, y) per pixel, first row at the top.

  Both axes span [-1, 1], so pixels are square only in square images.
  """
  x, y = _coordinates(width, align), -_coordinates(height, align)
  return jnp.stack(jnp.meshgrid(x, y, indexing="xy"), -1)


def draw_patches(
  key: Key, count: int, size: int, *, min_scale: ArrayLike
) -> tuple[Float[Array, "{count} {size}"], Float[Array, "{count} {size}"]]:
  """(rows, columns) of random patches of `size` x `size` points (GRAF, section 3.2).

  The scale of a patch is U(min_scale, 1) of the side of the image (1: all of it); its rows and columns are shifted
  independently by U(0, 1 - scale) in a random direction, so that it stays inside.
  """
  scale_key, shift_key = jax.random.split(key)
  scale = jax.random.uniform(scale_key, (count,), minval=min_scale, maxval=1.0)
  # A random sign times U(0, a) is U(-a, a).
  shift = jax.random.uniform(shift_key, (2, count), minval=-1.0, maxval=1.0) * (1.0 - scale)[None]
  lines = jnp.linspace(-1.0, 1.0, size)[None, None] * scale[None, :, None] + shift[..., None]
  rows, columns = jnp.clip(lines, -1.0, 1.0)
  return rows, columns


def patch_points(
  rows: Float[Array, "*b k"], columns: Float[Array, "*b m"], height: int, width: int, *, align: Align = "corners"
) -> Float[Array, "*b k m 2"]:
  """The image points (x, y) of patches of a `height` x `width` image, in the coordinates of `pixel_grid`."""
  x = _place(_index(columns, width), width, align)
  y = -_place(_index(rows, height), height, align)
  shape = (*x.shape[:-1], y.shape[-1], x.shape[-1])
  return jnp.stack([jnp.broadcast_to(x[..., None, :], shape), jnp.broadcast_to(y[..., :, None], shape)], -1)


def read_patches(
  images: Float[Array, "*b h w c"], rows: Float[Array, "*b k"], columns: Float[Array, "*b m"]
) -> Float[Array, "*b k m c"]:
  """Patches of images, interpolated bilinearly between the four pixels around each point.

  As a patch is a regular grid, this takes two matrix products with hat functions and no gather: rows @ image @
  columns^T.
  """
  left, right = (_hats(lines, n) for lines, n in ((rows, images.shape[-3]), (columns, images.shape[-2])))
  exact = jax.lax.Precision.HIGHEST
  return jnp.einsum("...ki,...ijc,...mj->...kmc", left, images, right, precision=exact)


def _coordinates(n: int, align: Align) -> Float[Array, "{n}"]:
  if align == "corners" and n > 1:
    return jnp.linspace(-1.0, 1.0, n)
  return _place(jnp.arange(n, dtype=jnp.float32), n, align)


def _hats(lines: Float[Array, "*b k"], n: int) -> Float[Array, "*b k {n}"]:
  index = _index(lines, n)[..., None]
  return jnp.maximum(0.0, 1.0 - jnp.abs(index - jnp.arange(n).reshape((1,) * lines.ndim + (n,))))


def _index(lines: Array, n: int) -> Array:
  """Patch coordinates in [-1, 1] -> pixel indices in [0, n - 1]."""
  return (lines + 1) * ((n - 1) / 2)


def _place(index: Array, n: int, align: Align) -> Array:
  if align == "corners":
    return 2 * index / (n - 1) - 1 if n > 1 else 0 * index
  return (2 * index + (align == "centres")) / n - 1
