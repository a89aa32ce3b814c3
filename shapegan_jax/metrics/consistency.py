"""Whether a volume shows one surface: agreement of its views, and the spread of the weights along each ray."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from shapegan_jax.geometry.depthmaps import points_from_depth
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.metrics.shape import erode
from shapegan_jax.types import Cameras, record

Maps = Array | np.ndarray


@record
class ViewErrors:
  """Differences between two views, per image."""

  color: Array  # [b] mean over common pixels and channels of |rgb - rgb'|, in [0, 1]
  depth: Array  # [b] mean over common pixels of |depth - depth'| / depth'
  share: Array  # [b] share of common pixels among the solid ones of the first view


@record
class View:
  """The picture of one camera: `rgb` [b, h, w, 3], `depth` [b, h, w] along the optical axis, `solid` [b, h, w] bool."""

  rgb: Array
  depth: Array
  solid: Array


def view_errors(first: View, cameras: Cameras, other: View, other_cameras: Cameras, *, tolerance: float) -> ViewErrors:
  """Every solid pixel of the first views, reprojected by its depth into the other views and compared there.

  Common pixels: in the first view the pixel and its 8 neighbours are solid; in the other, the four pixels around its
  reprojection are solid too, colour and depth are interpolated bilinearly between them, and the point does not lie more
  than `tolerance` (a fraction of the depth) behind the surface there, since it then counts as hidden. A point in front
  of the surface cannot be hidden: that is an error, however large. Images without common pixels have share 0 and
  errors nan.
  """
  height, width = first.depth.shape[-2:]
  points = points_from_depth(first.depth, cameras, pixel_grid(height, width))
  place, depth = _project(points, other_cameras)
  # [-1, 1], y up -> rows and columns.
  rows, columns = (1 - place[..., 1]) * (height - 1) / 2, (1 + place[..., 0]) * (width - 1) / 2
  inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
  maps = jnp.concatenate([other.rgb, other.depth[..., None], other.solid[..., None].astype(other.depth.dtype)], -1)
  seen = jax.vmap(_bilinear)(maps, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1))
  rgb, other_depth, solid = seen[..., :3], seen[..., 3], seen[..., 4]
  common = erode(first.solid) & inside & (solid > 0.999) & (depth < other_depth * (1 + tolerance))

  def mean(values: Array) -> Array:
    return jnp.sum(jnp.where(common, values, 0.0), (-2, -1)) / jnp.sum(common, (-2, -1))

  count = jnp.maximum(jnp.sum(erode(first.solid), (-2, -1)), 1)
  return ViewErrors(
    color=mean(jnp.mean(jnp.abs(rgb - first.rgb), -1)),
    depth=mean(jnp.abs(depth - other_depth) / other_depth),
    share=jnp.sum(common, (-2, -1)) / count,
  )


def weighted_variance(
  weights: Float[Maps, "*r s"], t: Float[Maps, "*r s"], *, least: float = 0.99
) -> tuple[Float[Array, "*r"], Bool[Array, "*r"]]:
  """(variance of the distance under the weights of a ray, whether the ray counts) as GOF's authors measure it.

  sum w (t - mean)^2 / ((sum w + 1e-5) (s - 1) / s), in squared world units; rays count whose weights sum to more than
  `least`. It depends on the positions of the s samples: compare only numbers with the same samples.
  """
  weights, t = jnp.asarray(weights), jnp.asarray(t)
  total = jnp.sum(weights, -1)
  mean = jnp.sum(weights * t, -1) / (total + 1e-5)
  samples = t.shape[-1]
  spread = jnp.sum(weights * (t - mean[..., None]) ** 2, -1)
  return spread / ((total + 1e-5) * (samples - 1) / samples), total > least


def _project(points: Float[Array, "b h w 3"], cameras: Cameras) -> tuple[Array, Array]:
  """World points -> (image points (x right, y up) in [-1, 1], depth) of each camera."""
  moved = points - cameras.cam2world[:, None, None, :3, 3]
  rotation = cameras.cam2world[:, None, None, :3, :3]
  local = jnp.sum(rotation * moved[..., :, None], -2)
  depth = -local[..., 2]
  slope = jnp.tan(cameras.fov / 2)[:, None, None, None]
  return local[..., :2] / (jnp.maximum(depth, 1e-6)[..., None] * slope), depth


def _bilinear(maps: Float[Array, "h w c"], rows: Array, columns: Array) -> Array:
  coordinates = jnp.stack([rows, columns])
  return jax.vmap(
    lambda channel: jax.scipy.ndimage.map_coordinates(channel, list(coordinates), order=1), in_axes=-1, out_axes=-1
  )(maps)
