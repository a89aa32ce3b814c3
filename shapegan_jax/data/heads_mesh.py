"""Triangle meshes of the `heads` set: normals, and a refinement that bends long edges to follow the normals.

The base mesh is coarse on the skull, where flat facets would disagree with smooth normals. The topology of the
refinement is found once, on the rest mesh; the positions of the new vertices are computed for every head. Numpy only.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Refinement:
  """A finer mesh: its vertices are those of the base mesh, then one on each split edge."""

  edges: np.ndarray  # [m, 2] base vertices of each split edge
  faces: np.ndarray  # [g, 3] of the finer mesh
  origin: np.ndarray  # [g] the base face of each
  corners: np.ndarray  # [g, 3, 3] each corner as weights of the corners of its base face


def unit(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
  """Vectors divided by their lengths (0 stays 0)."""
  x, y, z = vectors.T
  return vectors / (np.sqrt(x * x + y * y + z * z) + 1e-20)[:, None]


def vertex_normals(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, "v 3"]:
  """Unit normals: the mean of the adjacent triangles' normals weighted by their areas."""
  a, b, c = (vertices[faces[:, k]].T for k in range(3))
  (ux, uy, uz), (vx, vy, vz) = b - a, c - a
  face_normals = (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
  corner = faces.T.ravel()
  return unit(np.stack([np.bincount(corner, np.tile(n, 3), len(vertices)) for n in face_normals], -1)).astype(
    np.float32
  )


def refine(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], *, longest: float) -> Refinement:
  """Splits the edges between two faces that are longer than `longest`, and the faces at them into 2, 3 or 4."""
  sides = np.stack([faces, np.roll(faces, -1, 1)], -1)  # [f, 3, 2]: edge k runs from corner k to corner k + 1
  edges, edge_of, count = np.unique(np.sort(sides, -1).reshape(-1, 2), axis=0, return_inverse=True, return_counts=True)
  long = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) > longest
  # Open borders stay as they are: what lies on their other side (the cap of the neck) has other normals.
  split = long & (count == 2)
  number = np.where(split, len(vertices) + np.cumsum(split) - 1, -1)
  middle = number[edge_of.reshape(-1, 3)]  # [f, 3] the new vertex on each side, or -1
  pattern = (middle >= 0) @ np.array([1, 2, 4])
  # Local numbers: 0 1 2 the corners, 3 4 5 the middles of the sides 01 12 20.
  local_weights = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]], np.float32)
  all_vertices = np.concatenate([faces, middle], 1)
  new_faces, origin, corners = [], [], []
  for which in range(8):
    here = np.flatnonzero(pattern == which)
    for triangle in _split_pattern(tuple(bool(which >> k & 1) for k in range(3))):
      new_faces.append(all_vertices[here][:, triangle])
      origin.append(here)
      corners.append(np.broadcast_to(local_weights[triangle], (len(here), 3, 3)))
  return Refinement(edges[split], np.concatenate(new_faces), np.concatenate(origin), np.concatenate(corners))


def _split_pattern(split: tuple[bool, bool, bool]) -> list[list[int]]:
  """The triangles, in local numbers, of a face whose sides 01, 12, 20 are split or not."""
  if not any(split):
    return [[0, 1, 2]]
  if all(split):
    return [[0, 3, 5], [3, 1, 4], [5, 4, 2], [3, 4, 5]]
  turn = next(k for k in range(3) if split[k] and not split[k - 1])  # turned so that side 01 is split and 20 is not
  corner, middle = np.roll([0, 1, 2], -turn).tolist(), np.roll([3, 4, 5], -turn).tolist()
  if sum(split) == 1:
    return [[corner[0], middle[0], corner[2]], [middle[0], corner[1], corner[2]]]
  quad = [corner[0], middle[0], middle[1], corner[2]]
  return [[middle[0], corner[1], middle[1]], quad[:3], [quad[0], quad[2], quad[3]]]


def curved_middles(
  vertices: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"], edges: Int[np.ndarray, "m 2"]
) -> Float[np.ndarray, "m 3"]:
  """The middles of edges bent to be orthogonal to the normals at both ends (PN triangles, Vlachos et al. 2001)."""
  a, b = vertices[edges[:, 0]], vertices[edges[:, 1]]
  na, nb = normals[edges[:, 0]], normals[edges[:, 1]]
  ab = b - a
  rise_a = (ab * na).sum(1, keepdims=True)
  rise_b = (ab * nb).sum(1, keepdims=True)
  return (a + b) / 2 - (rise_a * na - rise_b * nb) / 8
