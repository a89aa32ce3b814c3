"""Renders the `heads` set: a z-buffer rasteriser and exact Lambertian image formation, in numpy only.

    image = albedo * (ambient + diffuse * max(0, n . l))

with one white light, no cast shadows, and a constant white background (dark surfaces could hide in a black one).
Conventions are those of `geometry`: the camera at distance 1 looks at the origin; the pixel of row i and column j looks
along (linspace(-1, 1, w)[j], linspace(1, -1, h)[i], -1/tan(fov/2)) in the camera frame, end points inclusive.

Depth, normals and mask are of the pixel's own ray (a ray that hits where none of the pixel's sub-pixels does counts as
a miss). Albedo and coverage are means over a grid of sub-pixels (albedo: over those that hit), so that edges and
textures are smooth; the shading is that of the pixel's own normal, so that every pixel which the head covers wholly
obeys the equation exactly.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from shapegan_jax.data import heads_albedo, heads_mesh, heads_model
from shapegan_jax.geometry.triangles import interpolate, project, rasterize

BACKGROUND = 1.0
SUPERSAMPLING = 2


def render_example(split: str, index: int, image_size: int, *, supersampling: int = SUPERSAMPLING) -> dict:
  """Example `index` of a split as float arrays; depends only on the arguments.

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
  points, depth = project(person.vertices, view.yaw, view.pitch, **heads_model.CAMERA)
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
