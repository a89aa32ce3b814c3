"""A depth map as a textured mesh: a vertex at each pixel's centre, two triangles between four of them; all numpy."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.relief import ReliefCamera, points_to_world, unproject
from shapegan_jax.meshing.meshes import Mesh, submesh, vertex_normals


def relief_mesh(
  camera: ReliefCamera,
  depth: Float[np.ndarray, "s s"],
  texture: UInt8[np.ndarray, "h h 3"],
  mask: Bool[np.ndarray, "s s"],
) -> Mesh:
  """The part of a relief inside `mask`, in the world's frame (y up, the front along +z), open at its border.

  Triangles are the ones that `rendering.rasterizer` draws, counter-clockwise from the front. The texture is an image of
  the canonical view, which also provides vertex colours for formats without textures.

  Raises:
    UserError: no triangle lies inside the mask.
  """
  size = camera.resolution
  points = np.asarray(points_to_world(camera, unproject(camera, jnp.asarray(depth, jnp.float32)))).reshape(-1, 3)
  number = np.arange(size * size, dtype=np.int32).reshape(size, size)
  above, right, below, opposite = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
  triangles = [(above, below, right), (right, below, opposite)]
  faces = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in triangles])
  # The outermost pixels' centres lie half a pixel inside the texture.
  row, column = np.divmod(number.reshape(-1), size)
  uvs = (np.stack([column, row], -1) + 0.5).astype(np.float32) / size
  whole = Mesh(points, faces, uvs=uvs)
  used = np.zeros(size * size, bool)
  used[faces[mask.reshape(-1)[faces].all(-1)]] = True
  if not used.any():
    raise UserError("mesh: the mask leaves nothing of the relief")
  height = texture.shape[0]
  at = np.minimum((uvs * height).astype(int), height - 1)
  whole = dataclasses.replace(whole, colors=texture[at[:, 1], at[:, 0]].astype(np.float32) / 255)
  kept = submesh(whole, used & mask.reshape(-1))
  return dataclasses.replace(kept, normals=vertex_normals(kept).astype(np.float32), texture=texture)
