"""Where rays pass through the image plane: the full grid, and patches of it (GRAF).

Image points are (x to the right, y up), both from -1 to 1 over the image. A patch is a regular grid of K x K places in
an n x m picture, given by its K rows (from the top) and K columns (from the left), each from -1, the first pixel, to 1,
the last one. Places lie between pixels as well.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from shapegan_jax.types import Key

Align = Literal["corners", "centres", "left"]
"""Where pixel i of n lies: "corners" puts the outermost on -1 and 1, at 2i / (n - 1) - 1 (pi-GAN and its descendants),
so a pixel is 2 / (n - 1) wide and the picture shows half a pixel more on each side than `fov`; "centres" are those of n
equal intervals, (2i + 1) / n - 1; "left" their left (upper) ends, 2i / n - 1 (NeRF's code and GRAF)."""


def pixel_grid(height: int, width: int, *, align: Align = "corners") -> Float[Array, "{height} {width} 2"]:
  """One point per pixel, first row at the top.

  Both axes span [-1, 1], so the pixels of an image that is not square are not square either.
  """
  x, y = _coordinates(width, align), -_coordinates(height, align)
  return jnp.stack(jnp.meshgrid(x, y, indexing="xy"), -1)


def draw_patches(
  key: Key, count: int, size: int, *, min_scale: ArrayLike
) -> tuple[Float[Array, "{count} {size}"], Float[Array, "{count} {size}"]]:
  """(rows, columns) of patches of `size` x `size` places, each at its own scale and position (GRAF, section 3.2).

  The scale is U(min_scale, 1), of the picture's side (1: all of it); rows and columns are moved by U(0, 1 - scale) in a
  random direction, each on its own, so that patches stay inside.
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
  """The image points of patches of an n x m picture, between those of `pixel_grid(n, m, align=align)`."""
  x = _place(_index(columns, width), width, align)
  y = -_place(_index(rows, height), height, align)
  shape = (*x.shape[:-1], y.shape[-1], x.shape[-1])
  return jnp.stack([jnp.broadcast_to(x[..., None, :], shape), jnp.broadcast_to(y[..., :, None], shape)], -1)


def read_patches(
  images: Float[Array, "*b h w c"], rows: Float[Array, "*b k"], columns: Float[Array, "*b m"]
) -> Float[Array, "*b k m c"]:
  """Patches of pictures, bilinear between the four pixels around each place.

  A patch is regular, so it is two matrix products with hat functions and no gather: rows @ image @ columns^T.
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
  """[-1, 1] -> [0, n - 1]."""
  return (lines + 1) * ((n - 1) / 2)


def _place(index: Array, n: int, align: Align) -> Array:
  if align == "corners":
    return 2 * index / (n - 1) - 1 if n > 1 else 0 * index
  return (2 * index + (align == "centres")) / n - 1
