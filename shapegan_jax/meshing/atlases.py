"""Texture atlases of triangle meshes: charts by direction, laid out in a square.

Each triangle is projected along one of the six axis directions, the one nearest to its normal; connected triangles with
the same direction form a chart, the orthographic projection of its triangles. So nothing in a chart is flipped or
shrunk to less than about a half, and no solver is needed: marching cubes meshes have too many triangles for one (the
library xatlas takes minutes for 138,000). A chart that curls around may overlap itself; overlaps share colours.
All of this is numpy.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from shapegan_jax.meshing.meshes import Mesh

_GAP = 4  # texels between charts
_SMOOTHING = 8  # rounds in which triangles adopt the direction of most of their neighbours
_LEAST_FACING = 0.3  # cosine below which a triangle is never projected along a direction, since it would lose its area


def unwrap(mesh: Mesh, size: int) -> Mesh:
  """`mesh` with `uvs` for a texture of `size` x `size`; vertices on the seams of charts are duplicated.

  `uvs` put texel (row r, column c) at ((c + 1/2) / size, (r + 1/2) / size).
  """
  direction = _directions(mesh)
  chart = _charts(mesh, direction)
  # Every vertex once for each chart that contains it.
  corner_chart = np.repeat(chart, 3)
  pairs, corner = np.unique(np.stack([corner_chart, mesh.faces.ravel()], -1), axis=0, return_inverse=True)
  old = pairs[:, 1]
  axis = np.empty(chart.max() + 1, np.int64)
  axis[chart] = direction
  flat = _seen_along(mesh.vertices[old].astype(np.float64), axis[pairs[:, 0]])
  low = np.full((len(axis), 2), np.inf)
  high = -low
  np.minimum.at(low, pairs[:, 0], flat)
  np.maximum.at(high, pairs[:, 0], flat)
  scale, places = _pack(high - low, size)
  texels = places[pairs[:, 0]] + (flat - low[pairs[:, 0]]) * scale
  uvs = (texels / size).astype(np.float32)
  rows = {name: None if (rows := getattr(mesh, name)) is None else rows[old] for name in ("normals", "colors")}
  faces = corner.reshape(-1, 3).astype(np.int32)
  return dataclasses.replace(mesh, vertices=mesh.vertices[old], faces=faces, uvs=uvs, **rows)


def _directions(mesh: Mesh) -> Int[np.ndarray, " f"]:
  """0 to 5: +x, +y, +z, -x, -y, -z, for each triangle."""
  a, b, c = (mesh.vertices.astype(np.float64)[mesh.faces[:, k]] for k in range(3))
  across = np.cross(b - a, c - a)
  across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-30)
  facing = np.concatenate([across, -across], -1)
  direction = np.argmax(facing, -1)
  allowed = facing > _LEAST_FACING
  allowed[np.arange(len(direction)), direction] = True  # degenerate triangles face nowhere
  neighbours = _neighbours(mesh)
  for _ in range(_SMOOTHING):
    votes = 0.5 * facing  # ties go to the direction that is faced more
    for k in range(3):
      near = neighbours[:, k]
      votes[np.flatnonzero(near >= 0), direction[near[near >= 0]]] += 1
    direction = np.argmax(np.where(allowed, votes, -np.inf), -1)
  return direction


def _neighbours(mesh: Mesh) -> Int[np.ndarray, "f 3"]:
  """The triangle across each edge (corner k to k + 1); -1: none. Of more than two at an edge, two are paired."""
  start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, 1).ravel()
  key = np.minimum(start, end).astype(np.int64) * len(mesh.vertices) + np.maximum(start, end)
  order = np.argsort(key, kind="stable")
  same = key[order][1:] == key[order][:-1]
  first, second = order[:-1][same], order[1:][same]
  across = np.full(len(key), -1)
  across[first], across[second] = second // 3, first // 3
  return across.reshape(-1, 3)


def _charts(mesh: Mesh, direction: Int[np.ndarray, " f"]) -> Int[np.ndarray, " f"]:
  """A number for each connected set of triangles of one direction."""
  from scipy.sparse import coo_array
  from scipy.sparse.csgraph import connected_components

  neighbours = _neighbours(mesh)
  face = np.repeat(np.arange(len(neighbours)), 3)
  near = neighbours.ravel()
  joined: Bool[np.ndarray, " e"] = (near >= 0) & (direction[near] == direction[face])
  graph = coo_array((np.ones(joined.sum(), bool), (face[joined], near[joined])), (len(neighbours),) * 2)
  return connected_components(graph, directed=False)[1]


def _seen_along(points: Float[np.ndarray, "v 3"], direction: Int[np.ndarray, " v"]) -> Float[np.ndarray, "v 2"]:
  """Image positions (right, down) for a viewer at which the direction points. Up is +y, or -z seen from above."""
  x, y, z = points.T
  right = np.choose(direction, [-z, x, x, z, x, -x])
  down = np.choose(direction, [-y, z, -y, -y, -z, -y])
  return np.stack([right, down], -1)


def _pack(boxes: Float[np.ndarray, "c 2"], size: int) -> tuple[float, Float[np.ndarray, "c 2"]]:
  """Texels per world unit, and the corner in texels of each chart's box (width, height in world units).

  Boxes are packed on shelves, tallest first, at the largest scale (to a percent) at which they fit.
  """
  order = np.argsort(-boxes[:, 1], kind="stable")
  low, high = 0.0, size / max(boxes.max(), 1e-12)
  best = None
  while best is None or high - low > 0.01 * high:
    scale = (low + high) / 2
    places = _shelves(boxes[order] * scale, size)
    if places is None:
      high = scale
      if high * boxes.max() < 1e-3:
        break  # more charts than fit at any scale: they overlap
    else:
      low, best = scale, places
  if best is None:
    return high, np.full(boxes.shape, size / 2)
  placed = np.empty_like(best)
  placed[order] = best
  return low, placed


def _shelves(boxes: Float[np.ndarray, "c 2"], size: int) -> Float[np.ndarray, "c 2"] | None:
  places = np.empty_like(boxes)
  x = y = float(_GAP)
  shelf = 0.0
  for i, (width, height) in enumerate(boxes.tolist()):
    if x + width + _GAP > size:
      x, y, shelf = float(_GAP), y + shelf + _GAP, 0.0
    if x + width + _GAP > size or y + height + _GAP > size:
      return None
    places[i] = x, y
    x, shelf = x + width + _GAP, max(shelf, height)
  return places
