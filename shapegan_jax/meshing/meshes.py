"""Triangle meshes of level sets: a scalar field on a grid of cells -> a closed surface in the world's frame.

A grid has one sample at the centre of each of n x n x n cells of a cube around the origin, indexed [x, y, z]; the field
is larger inside than outside (densities, occupancy logits). Triangles are counter-clockwise seen from outside. All of
this is numpy; marching cubes comes from scikit-image (extra `[mesh]`), which is imported only when it is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from shapegan_jax.errors import UserError

_LEAST_SHARE = 1e-3  # least distance of samples from the level, relative to a typical difference between neighbours


@dataclasses.dataclass(frozen=True)
class Grid:
  """The centres of `size`^3 cells of the cube [-half, half]^3 (world units)."""

  half: float
  size: int

  @property
  def spacing(self) -> float:
    """Side of a cell."""
    return 2 * self.half / self.size

  def positions(self, index: Int[np.ndarray, "*p 3"] | Float[np.ndarray, "*p 3"]) -> Float[np.ndarray, "*p 3"]:
    """World positions of (fractional) cell indices."""
    return ((np.asarray(index, np.float64) + 0.5) * self.spacing - self.half).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """A triangle mesh, world frame. With a `texture`, `uvs` are its coordinates ((0, 0): its upper left corner)."""

  vertices: np.ndarray  # [v, 3]
  faces: np.ndarray  # [f, 3] counter-clockwise from outside
  normals: np.ndarray | None = None  # [v, 3] unit, outward
  colors: np.ndarray | None = None  # [v, 3] in [0, 1], as displayed (sRGB)
  uvs: np.ndarray | None = None  # [v, 2] in [0, 1]
  texture: np.ndarray | None = None  # [h, w, 3] uint8, as displayed (sRGB)


def dense_samples(
  field: Callable[[np.ndarray], np.ndarray],
  grid: Grid,
  *,
  chunk: int,
  report: Callable[[Iterable[int], int], Iterator[int]] | None = None,
) -> Float[np.ndarray, "n n n"]:
  """The field at every sample; `field`: positions [p, 3] -> values [p], called with `chunk` positions at a time.

  The last chunk is padded, so that a compiled field sees one shape. `report(items, total)` yields the items (a progress
  bar).
  """
  values = np.empty(grid.size**3, np.float32)
  starts = range(0, len(values), chunk)
  for start in starts if report is None else report(starts, len(starts)):
    flat = np.arange(start, start + chunk).clip(max=len(values) - 1)
    index = np.stack(np.unravel_index(flat, (grid.size,) * 3), -1)
    values[start : start + chunk] = field(grid.positions(index))[: len(values) - start]
  return values.reshape((grid.size,) * 3)


def samples_near_level(
  field: Callable[[np.ndarray], np.ndarray],
  grid: Grid,
  level: float,
  *,
  block: int,
  chunk: int,
  report: Callable[[Iterable[int], int], Iterator[int]] | None = None,
) -> Float[np.ndarray, "n n n"]:
  """Like `dense_samples`, but exact only in blocks of `block`^3 cells near the level; elsewhere on the correct side.

  A coarse grid (the centres of the blocks) determines which blocks are near: those with neighbours on both sides. Then
  blocks are added as long as the surface leaves the known ones. Only separate pieces of surface that slip between the
  coarse samples are missed.
  """
  if block == 1:
    return dense_samples(field, grid, chunk=chunk, report=report)
  from scipy import ndimage

  blocks = -(-grid.size // block)
  rough = Grid(
    grid.half * blocks * block / grid.size, blocks
  )  # the same blocks, centred; shifted to those of the grid below
  shift = rough.half - grid.half
  coarse = dense_samples(lambda points: field(points + np.float32(shift)), rough, chunk=chunk)
  inside = coarse > level
  wanted = ndimage.maximum_filter(inside, 3, mode="nearest") != ndimage.minimum_filter(inside, 3, mode="nearest")
  # [block x, within, block y, within, block z, within], initialised with the coarse values.
  values = np.broadcast_to(coarse[:, None, :, None, :, None], (blocks, block) * 3).copy()
  within = np.stack(np.unravel_index(np.arange(block**3), (block,) * 3), -1)
  known = np.zeros_like(wanted)
  per_chunk = max(1, chunk // block**3)
  while (todo := np.argwhere(wanted & ~known)).size:
    starts = range(0, len(todo), per_chunk)
    for start in starts if report is None else report(starts, len(starts)):
      some = todo[start : start + per_chunk]
      filled = np.resize(some, (per_chunk, 3))  # one shape for a compiled field
      found = field(grid.positions((filled[:, None] * block + within).reshape(-1, 3)))
      found = found.reshape(per_chunk, block, block, block)[: len(some)]
      values[some[:, 0], :, some[:, 1], :, some[:, 2], :] = found
    known |= wanted
    wanted = _blocks_crossed(values > level)
  return values.reshape((blocks * block,) * 3)[: grid.size, : grid.size, : grid.size]


def _blocks_crossed(inside: Bool[np.ndarray, "m b m b m b"]) -> Bool[np.ndarray, "m m m"]:
  """The blocks with a sample on the other side of the level than one of its six neighbours."""
  blocks, block = inside.shape[:2]
  flat = inside.reshape((blocks * block,) * 3)
  crossed = np.zeros_like(flat)
  for axis in range(3):
    along, marked = np.moveaxis(flat, axis, 0), np.moveaxis(crossed, axis, 0)
    changes = along[1:] != along[:-1]
    marked[1:] |= changes
    marked[:-1] |= changes
  return crossed.reshape(inside.shape).any((1, 3, 5))


def visible_level(densities: Float[np.ndarray, "x y z"], spacing: float) -> float:
  """Half the density of the visible surface, where half of the light that enters from the front has been absorbed.

  Rays run along the columns of the grid, from +z to -z; each loses half of its light by some cell, and the level is
  half the median density of these cells. So it adapts to the unit and softness of the field, and a hard-edged field
  with a nearly constant interior is cut at half its value and not within its noise. For trained pi-GAN and ShadeGAN
  models of the heads this gave, among levels from 5 to 64, the silhouette closest to that of the rendering
  (intersection over union 0.98) and the depth with the most constant offset from the rendered one, a twentieth of the
  volume's side in front of it. Higher levels erode ears and outlines. The papers' own choices, 30 to 35 in a volume of
  side 0.24, are similar.

  Raises:
    UserError: there is no density at all.
  """
  columns = np.maximum(densities, 0.0).astype(np.float64)[:, :, ::-1].reshape(-1, densities.shape[2])
  if not columns.any():
    raise UserError("mesh: the field has no density anywhere in the volume; there is no surface to extract")
  stopped = np.cumsum(columns, -1) * spacing > np.log(2)
  opaque = stopped[:, -1]
  if not opaque.any():  # fog: its highest density
    return float(columns.max()) / 2
  return float(np.median(columns[opaque, np.argmax(stopped[opaque], -1)])) / 2


def level_set(values: Float[np.ndarray, "n n n"], grid: Grid, level: float) -> Mesh:
  """The closed surface where the field crosses `level`, by marching cubes (Lewiner et al. 2003).

  Everything beyond the cube is outside: where the inside reaches its border, the surface runs along it.

  Raises:
    UserError: the level is outside the field's range, or scikit-image is missing.
  """
  low, high = float(values.min()), float(values.max())
  if not np.isfinite([low, high]).all():
    raise UserError("mesh: the field has non-finite values; this model cannot be meshed")
  if not low < level < high:
    raise UserError(f"level {level:.6g}: outside the field's range, {low:.6g} to {high:.6g}; choose one between")
  marching_cubes = load_scikit_image().marching_cubes
  above = np.pad(values - np.float32(level), 1, mode="edge")
  # A sample exactly on the level would give degenerate triangles.
  steps = np.abs(np.diff(above, axis=0))[(above[1:] > 0) != (above[:-1] > 0)]
  least = np.float32(_LEAST_SHARE * (np.median(steps) if steps.size else high - low))
  np.copyto(above, np.where(above > 0, least, -least), where=np.abs(above) < least)
  # Reflected about the level, so that the surface passes midway between border samples and padding: at the border.
  for side in range(3):
    for end in (0, -1):
      edge = np.moveaxis(above, side, 0)[end]
      edge[...] = -np.abs(edge)
  vertices, faces, _, _ = marching_cubes(above, 0.0, gradient_direction="ascent")
  mesh = Mesh(grid.positions(vertices.astype(np.float64) - 1), faces.astype(np.int32))
  return mesh if enclosed_volume(mesh) > 0 else dataclasses.replace(mesh, faces=mesh.faces[:, ::-1].copy())


def enclosed_volume(mesh: Mesh) -> float:
  """Volume of a closed mesh, in cubic world units; negative if it is inside out."""
  a, b, c = (mesh.vertices.astype(np.float64)[mesh.faces[:, k]] for k in range(3))
  return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def largest_component(mesh: Mesh) -> tuple[Mesh, int]:
  """The connected part with the largest volume, and the number of parts. Cavities are separate parts."""
  from scipy.sparse import coo_array
  from scipy.sparse.csgraph import connected_components

  n = len(mesh.vertices)
  start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, 1).ravel()
  count, label = connected_components(coo_array((np.ones(len(start), bool), (start, end)), (n, n)), directed=False)
  a, b, c = (mesh.vertices.astype(np.float64)[mesh.faces[:, k]] for k in range(3))
  volumes = np.bincount(label[mesh.faces[:, 0]], np.einsum("ij,ij->i", a, np.cross(b, c)), count)
  return submesh(mesh, label == np.argmax(volumes)), count


def submesh(mesh: Mesh, keep: Bool[np.ndarray, " v"]) -> Mesh:
  """The kept vertices and the triangles whose corners are all kept."""
  number = np.cumsum(keep) - 1
  faces = number[mesh.faces[keep[mesh.faces].all(-1)]].astype(np.int32)
  rows = {
    name: None if (values := getattr(mesh, name)) is None else values[keep]
    for name in ("vertices", "normals", "colors", "uvs")
  }
  return dataclasses.replace(mesh, faces=faces, **rows)


def vertex_normals(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
  """Unit normals from the triangles around each vertex, weighted by area; outward."""
  a, b, c = (mesh.vertices.astype(np.float64)[mesh.faces[:, k]] for k in range(3))
  across = np.cross(b - a, c - a)
  sums = np.zeros((len(mesh.vertices), 3))
  for axis in range(3):
    for corner in range(3):
      sums[:, axis] += np.bincount(mesh.faces[:, corner], across[:, axis], len(sums))
  return _unit(sums)


def outward_normals(
  mesh: Mesh, gradient: Float[np.ndarray, "v 3"], *, half: float, spacing: float
) -> Float[np.ndarray, "v 3"]:
  """Unit normals -gradient / |gradient| of a field that grows inwards.

  Where the surface runs along the border of the cube [-half, half]^3, and where the gradient points out of the mesh or
  is 0 (noise finer than the grid), the normal is computed from the triangles.
  """
  flat = vertex_normals(mesh)
  smooth = _unit(-gradient.astype(np.float64))
  border = np.abs(mesh.vertices).max(-1) > half - spacing / 4
  trusted = (np.einsum("ij,ij->i", smooth, flat) > 0) & gradient.any(-1) & ~border
  return np.where(trusted[:, None], smooth, flat).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return np.where(length > 0, vectors / np.maximum(length, 1e-30), np.array([0.0, 0.0, 1.0]))


def load_scikit_image() -> Any:
  """The module `skimage.measure`, or the error that says how to install it."""
  try:
    from skimage import measure
  except ImportError:
    raise UserError("mesh: scikit-image is not installed; run pip install -e '.[mesh]'") from None
  return measure
