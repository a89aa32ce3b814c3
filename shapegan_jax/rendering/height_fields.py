"""Ray marching of rotated depth maps: the first intersection of each ray with the triangle mesh.

A ray of the view is also a straight line in the canonical camera: its point at depth z of the view projects to
(X / W, Y / W) and has depth W there, with X, Y and W linear in z. On a triangle of the mesh, 1 / depth is linear in the
image, so the excess W / depth - 1 (negative in front of the surface, positive behind it) is piecewise linear in z along
a ray. A march in steps of about a pixel finds its first sign change, a few secant steps find the triangle, and the
plane of the triangle gives the exact depth.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from shapegan_jax.geometry.relief import ReliefCamera, rotations
from shapegan_jax.types import record

_REFINEMENTS = 4
_EDGE = 1e-3  # pixels by which the mesh is enlarged, so that rounding leaves no gap at its edge
_SLAB = 1e-4  # the same for its depth range, as a fraction
_GRAZING = 1e-6  # excess per unit of depth below which a ray counts as parallel to its triangle


@record
class _Lines:
  """Rays of views in the canonical camera: (X, Y, W) = z slope + offset, X and Y in pixels times W."""

  slope: tuple[Array, Array, Array]  # [b, n, n] each
  offset: tuple[Array, Array, Array]  # [b, 1, 1] each

  def at(self, z: Array) -> tuple[Array, Array, Array]:
    return tuple(z * a + b for a, b in zip(self.slope, self.offset, strict=True))


@record
class _Bracket:
  """Two depths in the view, on either side of the surface, and the excess at both."""

  low: Array  # [b, n, n]
  high: Array
  excess_low: Array
  excess_high: Array


def cast(
  camera: ReliefCamera,
  depth: Float[Array, "b s s"],
  views: Float[Array, "b 6"],
  positions: Float[Array, " n"],
  *,
  stride: float,
) -> tuple[Float[Array, "b n n"], Bool[Array, "b n n"]]:
  """(depth in the view, hit): intersections of the rays at the pixel positions `positions` x `positions` of the views.

  `stride` is the step of the march in pixels of the canonical image; thinner parts may be missed. Gradients are those
  of the plane of the triangle that is hit. Where a ray hits nothing (`hit` is false) its depth is finite but
  meaningless.
  """
  corners = _corners(1 / depth)
  lines = _lines(camera, views, positions)
  fixed, still = jax.lax.stop_gradient((corners, lines))
  step, hit = _first_crossing(fixed, still, stride)
  chord = _chord(jax.lax.fori_loop(0, _REFINEMENTS, lambda _, b: _narrow(fixed, still, b), step))
  cell, lower, _, _ = _locate(still, chord, camera.resolution)
  level, rise = _plane(corners, lines, cell, lower)
  z = (1 - level) / jnp.where(jnp.abs(rise) > _GRAZING, rise, jnp.inf)
  # The intersection with a triangle seen edge-on is ill-conditioned. With rounding it may lie just outside its step.
  beyond = jnp.maximum(step.low - z, z - step.high)
  return jnp.where(beyond < 0.1 * (step.high - step.low), z, chord), hit


def _corners(nearness: Float[Array, "b s s"]) -> Float[Array, "b s*s 4"]:
  """1 / depth at the upper left, upper right, lower left and lower right of each cell, as one row for a single gather.

  A cell has the index of its upper left pixel; cells of the last row and column are never read.
  """
  right = jnp.roll(nearness, -1, 2)
  four = jnp.stack([nearness, right, jnp.roll(nearness, -1, 1), jnp.roll(right, -1, 1)], -1)
  return four.reshape(nearness.shape[0], -1, 4)


def _read(corners: Array, cell: Array) -> tuple[Array, Array, Array, Array]:
  rows = jnp.take_along_axis(corners, cell.reshape(cell.shape[0], -1, 1), 1, mode="promise_in_bounds")
  return tuple(rows[..., k].reshape(cell.shape) for k in range(4))


def _lines(camera: ReliefCamera, views: Float[Array, "b 6"], positions: Float[Array, " n"]) -> _Lines:
  focal, middle = camera.focal, (camera.resolution - 1) / 2
  rotation = rotations(views)[..., None, None]
  places = (positions - middle) / focal
  across, down = places[None, None, :], places[None, :, None]
  away = -views[:, 3:, None, None] - jnp.array([0.0, 0.0, camera.centre], views.dtype).reshape(1, 3, 1, 1)
  rotated = [rotation[:, 0, k] * across + rotation[:, 1, k] * down + rotation[:, 2, k] for k in range(3)]
  start = [jnp.sum(rotation[:, :, k] * away, 1) for k in range(3)]  # R^T (-t - c) + c
  start[2] = start[2] + camera.centre
  return _Lines(*((focal * x + middle * z, focal * y + middle * z, z) for x, y, z in (rotated, start)))


def _locate(lines: _Lines, z: Array, size: int) -> tuple[Array, Array, Array, Array]:
  """The triangle over which each ray is at depth z: (cell, whether it is the lower right triangle, right, down).

  The last two are pixels from the upper left corner of the cell.
  """
  x, y, w = lines.at(z)
  right, down = x / w, y / w
  column, row = (jnp.clip(place.astype(jnp.int32), 0, size - 2) for place in (right, down))
  right, down = right - column, down - row
  return row * size + column, right + down > 1, right, down


def _excess(corners: Array, lines: _Lines, z: Array, size: int) -> Array:
  cell, lower, right, down = _locate(lines, z, size)
  upper_left, upper_right, lower_left, lower_right = _read(corners, cell)
  # Interpolated from the corner with the right angle; in the lower triangle both legs point backwards.
  corner = jnp.where(lower, lower_right, upper_left)
  right, down = jnp.where(lower, 1 - down, right), jnp.where(lower, 1 - right, down)
  nearness = corner + right * (upper_right - corner) + down * (lower_left - corner)
  return nearness * lines.at(z)[2] - 1


def _plane(corners: Array, lines: _Lines, cell: Array, lower: Array) -> tuple[Array, Array]:
  """(level, rise): W / depth = level + rise z along each ray, for the plane of a triangle."""
  upper_left, upper_right, lower_left, lower_right = _read(corners, cell)
  corner = jnp.where(lower, lower_right, upper_left)
  across = jnp.where(lower, lower_right - lower_left, upper_right - upper_left)
  down = jnp.where(lower, lower_right - upper_right, lower_left - upper_left)
  size = math.isqrt(corners.shape[1])
  row, column = cell // size + lower, cell % size + lower
  return tuple(corner * w + across * (x - column * w) + down * (y - row * w) for x, y, w in (lines.offset, lines.slope))


def _intervals(corners: Array, lines: _Lines, size: int) -> tuple[Array, Array]:
  """(low, high): the range of depths in the view at which each ray is inside the image and its depth range.

  low > high where there is none.
  """
  nearest, farthest = (1 / f(corners, (1, 2)).reshape(-1, 1, 1) for f in (jnp.max, jnp.min))
  low, high = jnp.array(1e-3, corners.dtype), jnp.array(jnp.inf, corners.dtype)
  last = size - 1 + _EDGE
  # Each pair (a, b) is the condition a z + b >= 0.
  (x, y, w), (x0, y0, w0) = lines.slope, lines.offset
  sides = [(w, w0 - nearest * (1 - _SLAB)), (-w, farthest * (1 + _SLAB) - w0)]
  for p, p0 in ((x, x0), (y, y0)):
    sides += [(p + _EDGE * w, p0 + _EDGE * w0), (last * w - p, last * w0 - p0)]
  for a, b in sides:
    root = -b / jnp.where(a == 0, 1.0, a)
    never = (a == 0) & (b < 0)
    low = jnp.maximum(low, jnp.where(never, jnp.inf, jnp.where(a > 0, root, -jnp.inf)))
    high = jnp.minimum(high, jnp.where(a < 0, root, jnp.inf))
  return low, high


def _first_crossing(corners: Array, lines: _Lines, stride: float) -> tuple[_Bracket, Array]:
  size = math.isqrt(corners.shape[1])
  low, high = _intervals(corners, lines, size)
  hits = low <= high
  low, high = jnp.where(hits, low, 1.0), jnp.where(hits, high, 1.0)
  (x, y, w), (x2, y2, w2) = lines.at(low), lines.at(high)
  way = jnp.maximum(jnp.abs(x2 / w2 - x / w), jnp.abs(y2 / w2 - y / w))
  # All rays take as many steps as the longest; for most views these are far fewer than a fixed bound for all views.
  steps = jnp.maximum(jnp.ceil(jnp.max(jnp.where(hits, way, 0.0)) / stride), 1.0).astype(jnp.int32)
  step = (high - low) / steps

  def advance(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    was_behind, first = state
    behind = _excess(corners, lines, low + step * i, size) > 0
    return behind, jnp.where((behind != was_behind) & (first == 0), i, first)

  start = (_excess(corners, lines, low, size) > 0, jnp.zeros(hits.shape, jnp.int32))
  _, first = jax.lax.fori_loop(1, steps + 1, advance, start)
  before, after = low + step * (first - 1), low + step * first
  bracket = _Bracket(before, after, *(_excess(corners, lines, z, size) for z in (before, after)))
  return bracket, first > 0


def _chord(b: _Bracket) -> Array:
  """The depth at which the chord of the bracket is zero."""
  rise = b.excess_high - b.excess_low
  share = jnp.clip(-b.excess_low / jnp.where(rise == 0, 1.0, rise), 0.0, 1.0)
  return b.low + share * (b.high - b.low)


def _narrow(corners: Array, lines: _Lines, b: _Bracket) -> _Bracket:
  z = _chord(b)
  excess = _excess(corners, lines, z, math.isqrt(corners.shape[1]))
  before = (excess > 0) == (b.excess_low > 0)
  return _Bracket(
    low=jnp.where(before, z, b.low),
    high=jnp.where(before, b.high, z),
    excess_low=jnp.where(before, excess, b.excess_low),
    excess_high=jnp.where(before, b.excess_high, excess),
  )
