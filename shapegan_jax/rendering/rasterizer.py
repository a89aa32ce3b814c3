"""The depth of a rotated relief in a view: the nearest intersection of each ray with the mesh of a depth map.

The mesh has a vertex at each pixel centre and two double-sided triangles between every four of them: (upper left, lower
left, upper right) and (upper right, lower left, lower right) (Unsup3D; GAN2Shape). `warp_depth` marches along the rays.
`rasterize` tests every triangle at every sample; it is slow and serves as the reference in tests.

Gradients are those of the depth of the visible triangle, with the choice of triangle held constant: exact except for
changes of visibility, and the same as in the published rasteriser.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from shapegan_jax.geometry.relief import ReliefCamera, move, project, unproject
from shapegan_jax.rendering.height_fields import cast

_BACKGROUND = 100.0  # the published depth of samples that miss the mesh
_INSIDE = -1e-5  # smallest barycentric weight: samples on the edge of the mesh belong to it


def warp_depth(
  camera: ReliefCamera,
  depth: Float[Array, "*b s s"],
  views: Float[Array, "*b 6"],
  *,
  near: float,
  far: float,
  margin: float = 0.1,
  nr_compat: bool = False,
  supersample: int = 2,
  stride: float = 1.0,
) -> tuple[Float[Array, "*b s s"], Bool[Array, "*b s s"]]:
  """(depth, valid): the depth of canonical depth maps in each view, and where the view shows the relief.

  Args:
    near, far, margin: depths are clipped to [near - margin, far + margin] and valid below far + margin, which is also
      the depth of invalid pixels.
    nr_compat: as in the published rasteriser: pixel i is sampled half a pixel further on, around i + 1/2, and is
      invalid if any of its samples misses the mesh. An unrotated relief is then the mean of four neighbours, and the
      last row and column are missing. Otherwise a pixel is sampled around its centre, is valid if at least half of its
      samples hit the mesh, and is the mean of those.
    supersample: n x n samples per pixel (published: 2). A single one is exact at the pixel centre.
    stride: distance between two tests along a ray, in pixels of the canonical image; thinner sheets of triangles may be
      missed. All rays take as many tests as the longest.
  """
  batch = depth.shape[:-2]
  positions = _positions(camera.resolution, supersample, nr_compat, depth.dtype)
  z, hit = cast(camera, depth.reshape(-1, *depth.shape[-2:]), views.reshape(-1, 6), positions, stride=stride)
  z, valid = _pixels(z, hit, supersample, nr_compat, near - margin, far + margin)
  return z.reshape(*batch, *z.shape[1:]), valid.reshape(*batch, *z.shape[1:])


def rasterize(
  camera: ReliefCamera,
  depth: Float[Array, "*b s s"],
  views: Float[Array, "*b 6"],
  *,
  near: float,
  far: float,
  margin: float = 0.1,
  nr_compat: bool = False,
  supersample: int = 2,
  chunk: int = 64,
) -> tuple[Float[Array, "*b s s"], Bool[Array, "*b s s"]]:
  """`warp_depth` by a z-buffer over all triangles, `chunk` of them at a time, one image at a time."""
  batch, size = depth.shape[:-2], camera.resolution
  positions = _positions(size, supersample, nr_compat, depth.dtype)
  points = move(unproject(camera, depth), views, centre=camera.centre)
  places = (project(camera, points) + 1) * ((size - 1) / 2)
  vertices = jnp.concatenate([places, points[..., 2:]], -1).reshape(-1, size * size, 3)
  z, hit = jax.lax.map(lambda one: _scan_faces(one, _faces(size), positions, chunk), vertices)
  z, valid = _pixels(z, hit, supersample, nr_compat, near - margin, far + margin)
  return z.reshape(*batch, *z.shape[1:]), valid.reshape(*batch, *z.shape[1:])


def _positions(size: int, supersample: int, nr_compat: bool, dtype: DTypeLike) -> Float[Array, " n"]:
  """Sample positions of a row, in pixels: the centres of n equal parts of [i - 1/2, i + 1/2], or of [i, i + 1]."""
  return (jnp.arange(size * supersample, dtype=dtype) + 0.5) / supersample - (0.0 if nr_compat else 0.5)


def _pixels(
  z: Float[Array, "b n n"], hit: Bool[Array, "b n n"], supersample: int, nr_compat: bool, least: float, most: float
) -> tuple[Float[Array, "b s s"], Bool[Array, "b s s"]]:
  """(depth, valid) of pixels from samples; `hit`: whether a sample hits the mesh (elsewhere `z` is meaningless)."""

  def mean(x: Array) -> Array:
    b, n, _ = x.shape
    return jnp.mean(x.reshape(b, n // supersample, supersample, n // supersample, supersample), (2, 4))

  if nr_compat:
    depth = jnp.clip(mean(jnp.where(hit, z, _BACKGROUND)), least, most)
    return depth, depth < most
  share = mean(hit.astype(z.dtype))
  depth = mean(jnp.where(hit, z, 0.0)) / jnp.where(share > 0, share, 1.0)
  valid = (share >= 0.5) & (depth < most)
  return jnp.where(valid, jnp.maximum(depth, least), most), valid


def _faces(size: int) -> Int[Array, "f 3"]:
  """Vertices of all upper left, then of all lower right triangles: in the published order, which decides ties."""
  cell = (jnp.arange(size - 1)[:, None] * size + jnp.arange(size - 1)[None, :]).reshape(-1)
  upper = jnp.stack([cell, cell + size, cell + 1], -1)
  return jnp.concatenate([upper, jnp.stack([cell + 1, cell + size, cell + size + 1], -1)])


def _scan_faces(
  vertices: Float[Array, "v 3"], faces: Int[Array, "f 3"], positions: Float[Array, " n"], chunk: int
) -> tuple[Float[Array, "n n"], Bool[Array, "n n"]]:
  """(depth, hit) of the nearest triangle at each sample position; vertices are (column, row, depth)."""
  n, fixed = positions.shape[0], jax.lax.stop_gradient(vertices)
  column, row = positions[None, :], positions[:, None]
  faces = jnp.pad(faces, ((0, -faces.shape[0] % chunk), (0, 0)))  # the padding is triangles of area 0

  def try_chunk(best: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
    some = jax.lax.dynamic_slice_in_dim(faces, first, chunk)
    weights, z = _depth_at(fixed[some][:, None, None], column[None], row[None])
    z = jnp.where(jnp.all(weights >= _INSIDE, 0), z, jnp.inf)  # false for triangles of area 0, whose weights are nan
    nearest = jnp.min(z, 0)
    nearer, face = nearest < best[0], first + jnp.argmin(z, 0).astype(jnp.int32)
    return (jnp.where(nearer, nearest, best[0]), jnp.where(nearer, face, best[1])), None

  start = (jnp.full((n, n), jnp.inf, vertices.dtype), jnp.zeros((n, n), jnp.int32))
  (nearest, face), _ = jax.lax.scan(try_chunk, start, jnp.arange(0, faces.shape[0], chunk, dtype=jnp.int32))
  hit = jnp.isfinite(nearest)
  corners = jnp.where(hit[..., None, None], vertices[faces[face]], jnp.eye(3, dtype=vertices.dtype)[None, None] + 1)
  return _depth_at(corners, column, row)[1], hit


def _depth_at(
  corners: Float[Array, "*r 3 3"], column: Float[Array, "*c"], row: Float[Array, "*d"]
) -> tuple[Float[Array, "3 *e"], Float[Array, "*e"]]:
  """(barycentric weights, depth) of triangles at image positions: 1 / depth is linear between the corners."""
  (x, y, depth) = (tuple(corners[..., vertex, k] for vertex in range(3)) for k in range(3))
  area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
  second = ((column - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (row - y[0])) / area
  third = ((x[1] - x[0]) * (row - y[0]) - (column - x[0]) * (y[1] - y[0])) / area
  weights = jnp.stack([1 - second - third, second, third])
  shares = jnp.clip(weights, 0.0, 1.0)
  return weights, jnp.sum(shares, 0) / sum(shares[k] / depth[k] for k in range(3))
