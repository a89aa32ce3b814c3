"""Quality of a shape from rendered maps alone: hollow faces, flat faces, and normals that contradict the depth.

Images have leading axes `*b`, as numpy or jax arrays; everything can be jitted. An empty mask gives the worst value
(not convex, flat, 180 degrees), never nan: an empty picture should raise an alarm, not stop a run.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.numerics import safe_div

Maps = Array | np.ndarray

_MIN_WEIGHT = 1e-6
# The curvature of a mask of a few pixels or of a single line is undetermined; the coefficient is then 0.
_SINGULAR = 1e-6


def convexity(depth: Float[Maps, "*b h w"], mask: Float[Maps, "*b h w"] | Bool[Maps, "*b h w"]) -> Float[Array, "*b"]:
  """c3 of the least-squares fit depth ~ c0 + c1 x + c2 y + c3 (x^2 + y^2), pixels weighted by `mask` (0 to 1).

  x and y run over [-1, 1]. Positive: convex towards the camera (the middle is nearer); negative: a hollow face. A tilt
  or a shift of the object changes only c0 to c2.
  """
  depth, mask = jnp.asarray(depth), jnp.asarray(mask, jnp.float32)
  grid = jnp.broadcast_to(pixel_grid(*depth.shape[-2:]), (*depth.shape, 2))
  total = jnp.maximum(jnp.sum(mask, (-2, -1)), _MIN_WEIGHT)

  def mean(values: Array) -> Array:
    return (jnp.sum(values * mask, (-2, -1)) / total)[..., None, None]

  def without(values: Array, *regressors: Array) -> Array:
    """The residual of `values` after fitting a constant and regressors that are orthogonal to each other."""
    values = values - mean(values)
    for regressor in regressors:
      values = values - safe_div(mean(values * regressor), mean(regressor * regressor), eps=_SINGULAR) * regressor
    return values

  # c3 does not depend on where x and y start; centred on the mask and scaled to its size the fit is well conditioned.
  x, y = without(grid[..., 0]), without(grid[..., 1])
  size = jnp.sqrt(mean(x * x + y * y)) + _MIN_WEIGHT
  x, y = x / size, y / size
  bulge = without(x * x + y * y, x, without(y, x))
  slope = safe_div(mean(without(depth) * bulge), mean(bulge * bulge), eps=_SINGULAR)
  return (slope / size**2)[..., 0, 0]


def depth_deviation(
  depth: Float[Maps, "*b h w"], mask: Float[Maps, "*b h w"] | Bool[Maps, "*b h w"]
) -> Float[Array, "*b"]:
  """Standard deviation of the depth under the mask, in depth's unit; a flat sheet has 0."""
  depth, mask = jnp.asarray(depth), jnp.asarray(mask, jnp.float32)
  total = jnp.maximum(jnp.sum(mask, (-2, -1)), _MIN_WEIGHT)
  mean = jnp.sum(depth * mask, (-2, -1)) / total
  return jnp.sqrt(jnp.sum((depth - mean[..., None, None]) ** 2 * mask, (-2, -1)) / total)


def normal_disagreement_deg(
  normals: Float[Maps, "*b h w 3"],
  normals_from_depth: Float[Maps, "*b h w 3"],
  mask: Float[Maps, "*b h w"] | Bool[Maps, "*b h w"],
) -> Float[Array, "*b"]:
  """Median angle in degrees between two unit normal maps of one frame, over the mask (above 1/2) eroded by a pixel."""
  a, b = jnp.asarray(normals), jnp.asarray(normals_from_depth)
  inside = erode(jnp.asarray(mask) > 0.5)
  # atan2 is accurate at small angles, where the arc cosine of a rounded dot product is not.
  angles = jnp.rad2deg(jnp.arctan2(jnp.linalg.norm(jnp.cross(a, b), axis=-1), jnp.sum(a * b, -1)))
  pixels = (*angles.shape[:-2], -1)
  ordered = jnp.sort(jnp.reshape(jnp.where(inside, angles, jnp.inf), pixels), -1)
  count = jnp.sum(jnp.reshape(inside, pixels), -1, keepdims=True)
  low = jnp.take_along_axis(ordered, jnp.maximum(count - 1, 0) // 2, -1)
  high = jnp.take_along_axis(ordered, jnp.maximum(count - 1, 0) - jnp.maximum(count - 1, 0) // 2, -1)
  return jnp.where(count > 0, (low + high) / 2, 180.0)[..., 0]


def erode(mask: Float[Maps, "*b h w"] | Bool[Maps, "*b h w"], *, pixels: int = 1) -> Array:
  """The minimum of each pixel and its 8 neighbours, `pixels` times; the mask is 0 outside the image."""
  mask = jnp.asarray(mask)
  for _ in range(pixels):
    for axis in (-2, -1):
      widths = [(0, 0)] * mask.ndim
      widths[axis] = (1, 1)
      padded = jnp.moveaxis(jnp.pad(mask, widths), axis, 0)
      least = jnp.minimum(jnp.minimum(padded[:-2], padded[1:-1]), padded[2:])
      mask = jnp.moveaxis(least, 0, axis)
  return mask
