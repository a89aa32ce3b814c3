"""Grid sampling of images, and the sampling grids between the canonical image and the views of a relief.

A grid holds coordinates (right, down), with -1 and 1 at the centres of the outermost pixels, as returned by
`geometry.relief.project`.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.geometry.relief import ReliefCamera, move, move_back, project, unproject

Interpolation = Literal["bilinear", "nearest"]


def canonical_grid(
  camera: ReliefCamera, depth_in_view: Float[Array, "*b s s"], views: Float[Array, "*b 6"]
) -> Float[Array, "*b s s 2"]:
  """The position in the canonical image of the point at each pixel of the view; differentiable in depth and view."""
  return project(camera, move_back(unproject(camera, depth_in_view), views, centre=camera.centre))


def view_grid(
  camera: ReliefCamera, depth: Float[Array, "*b s s"], views: Float[Array, "*b 6"]
) -> Float[Array, "*b s s 2"]:
  """The position in the view of the point at each pixel of the canonical image, whether occluded or not."""
  return project(camera, move(unproject(camera, depth), views, centre=camera.centre))


def sample_image(
  image: Float[Array, "*b h w c"], grid: Float[Array, "*b n m 2"], *, method: Interpolation = "bilinear"
) -> Float[Array, "*b n m c"]:
  """The image at the positions of `grid`; it is 0 outside.

  "bilinear" interpolates between four pixels, so that the image fades to 0 within one pixel of its border; it is
  differentiable in image and grid. "nearest" is not differentiable in the grid.
  """
  *batch, height, width, channels = image.shape
  size = jnp.array([width, height], grid.dtype)
  # In pixels of the image padded with two rows and columns of zeros on each side, so that all positions are inside.
  place = (grid + 1) * ((size - 1) / 2).reshape((1,) * (grid.ndim - 1) + (2,)) + 2
  place = jnp.clip(place, 0.5, (size + 2.5).reshape((1,) * (grid.ndim - 1) + (2,)))
  padded = jnp.pad(image, ((0, 0),) * len(batch) + ((2, 2), (2, 2), (0, 0)))
  flat = padded.reshape(*batch, (height + 4) * (width + 4), channels)

  def read(column: Array, row: Array) -> Array:
    index = (row * (width + 4) + column).reshape(*batch, -1, 1)
    found = jnp.take_along_axis(flat, index, -2, mode="promise_in_bounds")
    return found.reshape(*column.shape, channels)

  if method == "nearest":
    nearest = jnp.round(place).astype(jnp.int32)
    return read(nearest[..., 0], nearest[..., 1])
  low = jnp.floor(place)
  (right, down), (i, j) = (jnp.moveaxis(x, -1, 0) for x in (place - low, low.astype(jnp.int32)))
  right, down = right[..., None], down[..., None]
  upper = (1 - right) * read(i, j) + right * read(i + 1, j)
  lower = (1 - right) * read(i, j + 1) + right * read(i + 1, j + 1)
  return (1 - down) * upper + down * lower
