"""Textures of meshes: an atlas of charts whose texels are coloured by the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from shapegan_jax.geometry.triangles import interpolate, rasterize
from shapegan_jax.meshing.atlases import unwrap
from shapegan_jax.meshing.meshes import Mesh
from shapegan_jax.reporting.previews import to_uint8


def textured(mesh: Mesh, colors_at: Callable[[np.ndarray, np.ndarray], np.ndarray], *, size: int) -> Mesh:
  """`mesh` (with normals) in charts, with a texture of `size` x `size`.

  `colors_at` maps surface points [p, 3] and unit normals [p, 3] to colours [p, 3] in [0, 1]. Texels that no triangle
  covers take the colour of the nearest covered one, so that nothing else bleeds in at the seams.
  """
  from scipy import ndimage

  mesh = unwrap(mesh, size)
  # The outermost rays of the rasteriser pass through the corners of the picture; those of texels lie inside.
  grid = (mesh.uvs.astype(np.float64) * size - 0.5) / (size - 1) * 2 - 1
  points = grid * np.array([1.0, -1.0])
  hits = rasterize(points, np.ones(len(points)), mesh.faces, height=size, width=size)
  corners = mesh.faces[hits.triangles]
  surface = np.concatenate([mesh.vertices, mesh.normals], -1)[corners]
  values = interpolate(surface, hits.weights)
  normals = values[:, 3:] / np.maximum(np.linalg.norm(values[:, 3:], axis=-1, keepdims=True), 1e-12)
  picture = np.zeros((size * size, 3))
  covered = np.zeros(size * size, bool)
  picture[hits.pixels] = colors_at(values[:, :3].astype(np.float32), normals.astype(np.float32))
  covered[hits.pixels] = True
  nearest = ndimage.distance_transform_edt(~covered.reshape(size, size), return_distances=False, return_indices=True)
  return dataclasses.replace(mesh, texture=to_uint8(picture.reshape(size, size, 3)[tuple(nearest)]))
