"""Renders the `heads` set: a z-buffer rasteriser and exact Lambertian image formation, in numpy only.

    image = albedo * (ambient + diffuse * max(0, n . l))

with one white light, no cast shadows, and a constant white background (black would let dark matter hide in it).
Conventions are those of `geometry`: the camera at distance 1 looks at the origin; the pixel of row i and column j looks
along (linspace(-1, 1, w)[j], linspace(1, -1, h)[i], -1/tan(fov/2)) in the camera frame, end points inclusive.

Depth, normals and mask are of the pixel's own ray (a ray that hits where none of the pixel's sub-pixels does counts as
a miss). Albedo and coverage are means over a grid of sub-pixels (albedo: over those that hit), so that edges and
textures are smooth; the shading is that of the pixel's own normal, so that every pixel which the head covers wholly
obeys the equation exactly.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from shapegan_jax.data import heads_albedo, heads_mesh, heads_model

BACKGROUND = 1.0
SUPERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Fragments:
  """What the rays of a grid hit: for each hit the flat index of its pixel, its triangle and its weights in it."""

  pixels: np.ndarray  # [n] row-major index
  triangles: np.ndarray  # [n]
  weights: np.ndarray  # [n, 3] perspective-correct barycentric weights
  depth: np.ndarray  # [n] along the optical axis

  def where(self, keep: np.ndarray) -> Fragments:
    return Fragments(self.pixels[keep], self.triangles[keep], self.weights[keep], self.depth[keep])


def camera_rotation(yaw: float, pitch: float) -> Float[np.ndarray, "3 3"]:
  """World to camera: rows are the camera's right, up and backward axes (it looks along minus the last)."""
  back = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
  right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
  return np.stack([right, np.cross(back, right), back])


def project(
  vertices: Float[np.ndarray, "v 3"], yaw: float, pitch: float
) -> tuple[Float[np.ndarray, "v 2"], Float[np.ndarray, " v"]]:
  """Image coordinates in [-1, 1] (x to the right, y up) and depth along the optical axis."""
  in_camera = vertices.astype(np.float64) @ camera_rotation(yaw, pitch).T
  depth = heads_model.CAMERA_RADIUS - in_camera[:, 2]
  return in_camera[:, :2] / (depth[:, None] * np.tan(np.radians(heads_model.FOV_DEG) / 2)), depth


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

  Works on all (triangle, ray of its bounding box) pairs at once: barycentric weights by edge functions, then the pairs
  written in order of falling depth, so that the nearest one remains.
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
  """Values at the corners of each hit's triangle, weighted."""
  return np.einsum("nkc,nk->nc", values, weights.astype(np.float32))


def render_example(split: str, index: int, image_size: int, *, supersampling: int = SUPERSAMPLING) -> dict:
  """Example `index` of a split as float arrays; depends on nothing but the arguments.

  Returns:
    image [s, s, 3] and albedo [s, s, 3] in [0, 1]; depth [s, s] (0 outside the mask); normals [s, s, 3] unit, world
    frame (0 outside the mask); mask [s, s] bool; yaw, pitch (radians); light [4] (l0, l1, lx, ly).
  """
  model = heads_model.load_model()
  person = heads_model.sample_person(model, heads_model.stream(split, index, heads_model.SHAPE_STREAM))
  appearance = heads_albedo.sample_appearance(person, heads_model.stream(split, index, heads_model.APPEARANCE_STREAM))
  view = heads_model.sample_view(heads_model.stream(split, index, heads_model.VIEW_STREAM))
  return render(model, person, appearance, view, image_size, supersampling=supersampling)


def render(
  model: heads_model.HeadModel,
  person: heads_model.Person,
  appearance: heads_albedo.Appearance,
  view: heads_model.View,
  image_size: int,
  *,
  supersampling: int = SUPERSAMPLING,
) -> dict:
  """One person in one view; see `render_example` for what is returned."""
  s = image_size
  points, depth = project(person.vertices, view.yaw, view.pitch)
  normals = heads_mesh.vertex_normals(person.vertices, model.faces)
  attributes = np.concatenate([normals, model.rest, heads_albedo.vertex_noise(appearance, model.rest)], -1)

  fine = rasterize(points, depth, model.faces, height=s, width=s, supersampling=supersampling)
  values = interpolate(attributes[model.faces[fine.triangles]], fine.weights)
  fine_albedo = heads_albedo.albedo_at(
    model,
    person,
    appearance,
    rest=values[:, 3:6],
    noise=values[:, 6:],
    uvs=interpolate(model.uvs[fine.triangles], fine.weights),
    parts=model.parts[fine.triangles],
  )
  own = fine if supersampling == 1 else rasterize(points, depth, model.faces, height=s, width=s)
  own = own.where(np.isin(own.pixels, _block_of(fine.pixels, s, supersampling)))
  own_normals = heads_mesh.unit(interpolate(normals[model.faces[own.triangles]], own.weights))

  def shade(normals: np.ndarray) -> np.ndarray:
    return view.ambient + view.diffuse * np.maximum(0, normals @ view.direction)

  # Per pixel: the mean albedo and shading of the sub-pixels that hit, and their share.
  hits = np.concatenate([fine_albedo, shade(heads_mesh.unit(values[:, :3]))[:, None]], -1)
  means, coverage = _mean_of_blocks(hits, fine.pixels, s, supersampling)
  albedo, shading = means[:, :3], means[:, 3]
  shading[own.pixels] = shade(own_normals)
  image = coverage[:, None] * albedo * shading[:, None] + (1 - coverage[:, None]) * BACKGROUND

  def on_grid(values: np.ndarray) -> np.ndarray:
    full = np.zeros((s * s, *values.shape[1:]), values.dtype)
    full[own.pixels] = values
    return full.reshape(s, s, *values.shape[1:])

  return {
    "image": image.reshape(s, s, 3),
    "albedo": on_grid(albedo[own.pixels]),
    "depth": on_grid(own.depth.astype(np.float32)),
    "normals": on_grid(own_normals.astype(np.float32)),
    "mask": on_grid(np.ones(len(own.pixels), bool)),
    "yaw": np.float32(view.yaw),
    "pitch": np.float32(view.pitch),
    "light": view.light,
  }


def _block_of(pixels: Int[np.ndarray, " n"], size: int, factor: int) -> Int[np.ndarray, " n"]:
  """The pixel of a size x size grid in which each ray of the grid refined by `factor` lies."""
  row, column = np.divmod(pixels, size * factor)
  return row // factor * size + column // factor


def _mean_of_blocks(
  values: Float[np.ndarray, "n c"], pixels: Int[np.ndarray, " n"], size: int, factor: int
) -> tuple[Float[np.ndarray, "p c"], Float[np.ndarray, " p"]]:
  """Means over the blocks of factor x factor rays of a fine grid where only some hit, and the share that did."""
  block = _block_of(pixels, size, factor)
  count = np.bincount(block, minlength=size * size)
  sums = np.stack([np.bincount(block, channel, size * size) for channel in values.T], -1)
  return sums / np.maximum(count, 1)[:, None], count / factor**2


def encode_png(image: np.ndarray) -> bytes:
  """An image in [0, 1] as the bytes of an 8-bit PNG (linear, no gamma)."""
  stream = io.BytesIO()
  Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(stream, "PNG", compress_level=3)
  return stream.getvalue()
