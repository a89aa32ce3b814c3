"""From depth maps to points and normals. Depth is along the optical axis, in world units."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.geometry.rays import rotate_to_world
from shapegan_jax.numerics import l2_normalize
from shapegan_jax.types import Cameras

Frame = Literal["world", "camera"]


def points_from_depth(
  depth: Float[Array, "*b h w"], cameras: Cameras, pixels: Float[Array, "h w 2"], *, frame: Frame = "world"
) -> Float[Array, "*b h w 3"]:
  """Points visible at `pixels`: depth * (x tan(fov/2), y tan(fov/2), -1) in the camera frame, converted to `frame`."""
  slope = jnp.tan(cameras.fov / 2)[..., None, None]
  pixels = jnp.broadcast_to(pixels, (*depth.shape, 2))
  points = jnp.stack([depth * slope * pixels[..., 0], depth * slope * pixels[..., 1], -depth], -1)
  if frame == "camera":
    return points
  return rotate_to_world(points, cameras) + cameras.cam2world[..., None, None, :3, 3]


def normals_from_depth(
  depth: Float[Array, "*b h w"], cameras: Cameras, pixels: Float[Array, "h w 2"], *, frame: Frame = "world"
) -> Float[Array, "*b h w 3"]:
  """Unit normals facing the camera: cross products of the central differences of neighbouring points.

  The first and last rows and columns use one-sided differences. At depth discontinuities the normals are those of the
  step between the surfaces, so masks should be eroded by one pixel. Both sides must have at least 2 pixels.
  """
  points = points_from_depth(depth, cameras, pixels, frame="camera")
  rightwards = _differences(points, -2)
  upwards = -_differences(points, -3)  # rows run downwards
  normals = l2_normalize(jnp.cross(rightwards, upwards), eps=1e-15)
  return normals if frame == "camera" else rotate_to_world(normals, cameras)


def _differences(values: Array, axis: int) -> Array:
  """values[i + 1] - values[i - 1], and twice the one-sided difference at the ends."""
  values = jnp.moveaxis(values, axis, 0)
  inner = values[2:] - values[:-2]
  return jnp.moveaxis(
    jnp.concatenate([2 * (values[1:2] - values[:1]), inner, 2 * (values[-1:] - values[-2:-1])]), 0, axis
  )
