"""SIDE and MAD: errors of depth maps, by the masks and formulas of Unsup3D (Wu et al., CVPR 2020).

Depth is along the optical axis, and may come from a network, a generator or a constant. Each error is one number per
image; tables average over images and print SIDE times 100 and MAD in degrees. An empty mask gives the worst value
(infinity, 180 degrees), never nan. Everything can be jitted.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from shapegan_jax.metrics.shape import erode

Maps = Array | np.ndarray
Masks = Bool[Maps, "*b h w"]

_RELEASED_EPSILON = 1e-7


def foreground(depth: Float[Maps, "*b h w"]) -> Bool[Array, "*b h w"]:
  """Unsup3D's mask of a true depth map whose background has its largest depth: pixels nearer than the maximum."""
  depth = jnp.asarray(depth)
  return depth < jnp.max(depth, (-2, -1), keepdims=True)


def common_mask(predicted: Masks, true: Masks) -> Bool[Array, "*b h w"]:
  """Where errors are measured: the intersection of both masks, each eroded by a pixel.

  Unsup3D: a 3 x 3 mean (zeros outside the image) above 0.99, that is, a pixel whose 8 neighbours all belong to it.
  """
  return erode(jnp.asarray(predicted)) & erode(jnp.asarray(true))


def side(predicted: Float[Maps, "*b h w"], true: Float[Maps, "*b h w"], mask: Masks) -> Float[Array, "*b"]:
  """Scale-invariant depth error: the standard deviation over `mask` (of `common_mask`) of log predicted - log true.

  Depths under the mask must be above 0; a common factor of a whole map changes nothing.
  """
  mask = jnp.asarray(mask)
  ratio = jnp.where(mask, jnp.log(_positive(predicted, mask)) - jnp.log(_positive(true, mask)), 0.0)
  deviation = ratio - _mean(ratio, mask)[..., None, None]
  return jnp.where(_any(mask), jnp.sqrt(_mean(deviation**2, mask)), jnp.inf)


def mad(
  predicted: Float[Maps, "*b h w"],
  true: Float[Maps, "*b h w"],
  mask: Masks,
  *,
  fov: ArrayLike,
  meaning: Literal["paper", "released"] = "paper",
) -> Float[Array, "*b"]:
  """Mean angle deviation in degrees over `mask` (of `common_mask`) between the normals of the two depth maps.

  Args:
    fov: the full angle between the outermost pixels in radians, for all images or one each (Unsup3D: 10 degrees).
    meaning: "paper": the angle. "released": as the published code computes it, which divides by the length of the
      cross product + 1e-7; at 64 pixels that shortens normals by 0.2 to 0.3 %, so that two equal maps differ by about
      6 degrees. The papers report this variant.
  """
  epsilon = _RELEASED_EPSILON if meaning == "released" else 0.0
  a, b = (normals(jnp.asarray(depth), fov=fov, epsilon=epsilon) for depth in (predicted, true))
  cosine = jnp.sum(a * b, -1)
  if meaning == "released":
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
  else:  # the arc cosine is inaccurate at small angles
    angle = jnp.arctan2(jnp.linalg.norm(jnp.cross(a, b), axis=-1), cosine)
  mask = jnp.asarray(mask)
  return jnp.where(_any(mask), _mean(jnp.where(mask, jnp.rad2deg(angle), 0.0), mask), 180.0)


def normals(depth: Float[Array, "*b h w"], *, fov: ArrayLike, epsilon: float = 0.0) -> Float[Array, "*b h w 3"]:
  """Unsup3D's normals of a depth map: cross products of central differences of depth * (x, y, 1), and (0, 0, 1) on the
  image's outermost pixels.

  x and y lie at the pixels' centres, of which the outermost span `fov`. The frame is Unsup3D's: x right, y down, z
  away from the camera, where (0, 0, 1) is a surface that faces it.
  """
  height, width = depth.shape[-2:]
  # As published the focal length is that of the width, and pixels are square.
  focal = (width - 1) / 2 / jnp.tan(jnp.broadcast_to(jnp.asarray(fov, depth.dtype), depth.shape[:-2]) / 2)
  focal = focal[..., None, None]
  x = (jnp.arange(width) - (width - 1) / 2).reshape((1,) * (depth.ndim - 1) + (-1,)) / focal
  y = (jnp.arange(height) - (height - 1) / 2).reshape((1,) * (depth.ndim - 2) + (-1, 1)) / focal
  points = jnp.stack([depth * x, depth * y, depth], -1)
  across = points[..., 1:-1, 2:, :] - points[..., 1:-1, :-2, :]
  down = points[..., 2:, 1:-1, :] - points[..., :-2, 1:-1, :]
  product = jnp.cross(across, down)
  length = jnp.linalg.norm(product, axis=-1, keepdims=True)
  inner = product / (jnp.maximum(length, 1e-20) + epsilon)
  facing = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0], depth.dtype), points.shape)
  return jax.lax.dynamic_update_slice(facing, inner, (0,) * (depth.ndim - 2) + (1, 1, 0))


def _positive(depth: Maps, mask: Array) -> Array:
  """Depth, and 1 outside the mask, where it may be undefined."""
  return jnp.where(mask, jnp.asarray(depth), 1.0)


def _any(mask: Array) -> Array:
  return jnp.any(mask, (-2, -1))


def _mean(values: Array, mask: Array) -> Array:
  count = jnp.maximum(jnp.sum(mask, (-2, -1)), 1)
  return jnp.sum(jnp.where(mask, values, 0.0), (-2, -1)) / count
