"""A z-buffer rasteriser for triangle meshes in numpy, so that worker processes need not import jax.

Conventions are those of `geometry.cameras` and `geometry.pixels`: the camera looks at the origin, and the ray of the
pixel in row i and column j has the direction (linspace(-1, 1, w)[j], linspace(1, -1, h)[i], -1/tan(fov/2)) in the
camera frame. `rendering.rasterizer` has the differentiable rasteriser for depth maps.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Fragments:
  """The hits of a grid of rays: for each hit the flat pixel index, the triangle, its barycentric weights and depth."""

  pixels: np.ndarray  # [n] row-major index
  triangles: np.ndarray  # [n]
  weights: np.ndarray  # [n, 3] perspective-correct barycentric weights
  depth: np.ndarray  # [n] along the optical axis

  def where(self, keep: np.ndarray) -> Fragments:
    return Fragments(self.pixels[keep], self.triangles[keep], self.weights[keep], self.depth[keep])


def camera_rotation(yaw: float, pitch: float) -> Float[np.ndarray, "3 3"]:
  """World-to-camera rotation: its rows are the camera's right, up and backward axes (it looks along minus the last)."""
  back = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
  right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
  return np.stack([right, np.cross(back, right), back])


def project(
  vertices: Float[np.ndarray, "v 3"], yaw: float, pitch: float, *, radius: float, fov_deg: float
) -> tuple[Float[np.ndarray, "v 2"], Float[np.ndarray, " v"]]:
  """Image coordinates (x to the right, y up; [-1, 1] over the image) and depth along the optical axis of vertices.

  The camera is at distance `radius` from the origin; `yaw` and `pitch` are in radians.
  """
  in_camera = vertices.astype(np.float64) @ camera_rotation(yaw, pitch).T
  depth = radius - in_camera[:, 2]
  return in_camera[:, :2] / (depth[:, None] * np.tan(np.radians(fov_deg) / 2)), depth


def rasterize(
  points: Float[np.ndarray, "v 2"],
  depth: Float[np.ndarray, " v"],
  faces: Int[np.ndarray, "f 3"],
  *,
  height: int,
  width: int,
  supersampling: int = 1,
) -> Fragments:
  """The nearest front-facing triangle along each ray of a corner-aligned grid, refined `supersampling` times per axis.

  Processes all pairs of a triangle and a ray in its bounding box at once: barycentric weights by edge functions, then
  the pairs are written in order of decreasing depth, so that the nearest one remains.
  """
  fine = np.array([width, height]) * supersampling
  shift = (supersampling - 1) / 2  # ray k of the fine grid is at pixel coordinate (k - shift) / supersampling
  flip = np.array([1.0, -1.0])
  grid = ((points * flip + 1) / 2 * (np.array([width, height]) - 1) * supersampling + shift).astype(np.float32)
  a, b, c = (grid[faces[:, k]] for k in range(3))  # in units of the fine grid's rays, x right, y down
  ab, ac = b - a, c - a
  area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
  low = np.ceil(np.minimum(np.minimum(a, b), c)).astype(np.int64).clip(0)
  high = np.minimum(np.floor(np.maximum(np.maximum(a, b), c)).astype(np.int64), fine - 1)
  wide, tall = (high - low + 1).T
  seen = np.flatnonzero((area < -1e-9) & (wide > 0) & (tall > 0))  # counter-clockwise, which y down makes clockwise
  low, wide, count, origin = low[seen], wide[seen], (wide * tall)[seen], a[seen]
  # Barycentric weights of corners 1 and 2 are linear in the position: weight_k = slope_k . (p - corner 0).
  inverse = 1 / area[seen]
  slope_b = np.stack([ac[seen, 1], -ac[seen, 0]], -1) * inverse[:, None]
  slope_c = np.stack([-ab[seen, 1], ab[seen, 0]], -1) * inverse[:, None]

  which = np.repeat(np.arange(len(seen)), count)
  rank = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
  row, column = np.divmod(rank, wide[which])
  column += low[which, 0]
  row += low[which, 1]
  dx, dy = column - origin[which, 0], row - origin[which, 1]
  weight_b = slope_b[which, 0] * dx + slope_b[which, 1] * dy
  weight_c = slope_c[which, 0] * dx + slope_c[which, 1] * dy
  inside = np.flatnonzero((weight_b >= -1e-5) & (weight_c >= -1e-5) & (weight_b + weight_c <= 1 + 1e-5))
  which, pixel = which[inside], (row[inside] * fine[0] + column[inside])
  weight_b, weight_c = weight_b[inside], weight_c[inside]

  # 1/depth is linear on the image, and so are the weights of values divided by depth.
  za, zb, zc = (1 / depth)[faces[seen]][which].T
  weight_a, weight_b, weight_c = (1 - weight_b - weight_c) * za, weight_b * zb, weight_c * zc
  inverse_depth = weight_a + weight_b + weight_c
  order = np.argsort(inverse_depth, kind="stable")
  nearest = np.full(fine[0] * fine[1], -1)
  nearest[pixel[order]] = order
  hit = np.flatnonzero(nearest >= 0)
  chosen = nearest[hit]
  ray_depth = 1 / inverse_depth[chosen]
  weights = np.stack([weight_a[chosen], weight_b[chosen], weight_c[chosen]], -1) * ray_depth[:, None]
  return Fragments(hit, seen[which[chosen]], weights, ray_depth)


def interpolate(values: Float[np.ndarray, "f 3 c"], weights: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n c"]:
  """Interpolates values at the three corners of each hit's triangle, [hit, corner, channel], with its weights."""
  return np.einsum("nkc,nk->nc", values, weights.astype(np.float32))
