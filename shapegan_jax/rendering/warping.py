"""Pictures read at other places than their pixels, and the places at which a view of a relief reads the canonical one.

A grid holds (right, down), -1 and 1 at the centres of the outermost pixels, as `geometry.relief.project` gives them.
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
  """Where the canonical picture shows what each pixel of the view shows; differentiable in depth and view."""
  return project(camera, move_back(unproject(camera, depth_in_view), views, centre=camera.centre))


def view_grid(
  camera: ReliefCamera, depth: Float[Array, "*b s s"], views: Float[Array, "*b 6"]
) -> Float[Array, "*b s s 2"]:
  """Where the view shows what each pixel of the canonical picture shows, hidden or not."""
  return project(camera, move(unproject(camera, depth), views, centre=camera.centre))


def sample_image(
  image: Float[Array, "*b h w c"], grid: Float[Array, "*b n m 2"], *, method: Interpolation = "bilinear"
) -> Float[Array, "*b n m c"]:
  """The image at the places of `grid`; everything outside of it is 0.

  "bilinear" between the four pixels around a place, so the last pixels fade to 0 over one pixel's width;
  differentiable in image and grid. "nearest" is not differentiable in the grid.
  """
  *batch, height, width, channels = image.shape
  size = jnp.array([width, height], grid.dtype)
  # In pixels of an image with two more rows and columns of zeros before and after it, so that all are inside.
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
