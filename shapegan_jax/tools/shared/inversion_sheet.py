"""The sheet of a photograph and its inversion."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from shapegan_jax.errors import UserError
from shapegan_jax.model import Model
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.reporting.previews import pictures, to_uint8
from shapegan_jax.tools.shared.instances import Instances
from shapegan_jax.types import Lights, Rendering

YAWS_DEG = (-50.0, -30.0, -10.0, 10.0, 30.0, 50.0)
AZIMUTHS_DEG = (-60.0, -35.0, -12.0, 12.0, 35.0, 60.0)
_MESH_CELLS = 96
_CELL, _CAPTION, _GAP = 160, 14, 4
_LEAST_DIFFUSE = 1e-3

Cell = tuple[str, Float[np.ndarray, "h w 3"]]


def draw_sheet(
  model: Model, photograph: Float[np.ndarray, "h h 3"], subject: Instances, rendering: Rendering
) -> UInt8[np.ndarray, "height width 3"]:
  """Rows: the inversion of the photograph, its mesh, other views, and other lights for models with light.

  Args:
    model: the generator.
    photograph: the target, in [0, 1].
    subject: what was found, one.
    rendering: [1, h, h] its rendering in the pose and light of the photograph.
  """
  known = {name: parts[0] for name, parts in pictures(rendering, subject.cameras).items()}
  first = [("photograph", photograph), ("reconstruction", known["image"]), ("albedo", known["albedo"])]
  if rendering.shading is not None:
    first.append(("diffuse shading", _diffuse(rendering, subject.lights)))
  first += [(name, known[name]) for name in ("normals", "depth")]
  yaws = jnp.deg2rad(jnp.array(YAWS_DEG))
  views = [_view(model, subject, yaw) for yaw in yaws]
  rows = [first, _mesh(model, subject) or [("shape", _clay(view, yaw)) for view, yaw in zip(views, yaws, strict=True)]]
  rows.append([(f"yaw {yaw:+.0f}", np.asarray(view.rgb[0])) for yaw, view in zip(YAWS_DEG, views, strict=True)])
  if subject.lights is not None:
    rows.append(
      [(f"light {azimuth:+.0f}", _relit(model, rendering, subject.lights, azimuth)) for azimuth in AZIMUTHS_DEG]
    )
  return _captioned(rows)


def _view(model: Model, subject: Instances, yaw: jax.Array) -> Rendering:
  cameras = model.cameras_at(yaw[None], jnp.zeros(1))
  return model.render(subject.latents, cameras, subject.lights, resolution=model.resolution)


def _mesh(model: Model, subject: Instances) -> list[Cell]:
  """Pictures of the mesh; none if the extra for meshes is missing or there is no surface."""
  from shapegan_jax.meshing.extraction import VIEWS_DEG, Extractor, mesh_views

  try:
    found = Extractor(model).extract(subject.latents, subject.lights, resolution=_MESH_CELLS)
  except UserError:
    return []
  names = {"shape": "mesh", "colour": "mesh, colours"}
  views = mesh_views(found.mesh, found.half, size=_CELL)
  return [
    (f"{names[row]}, {yaw:+.0f}", picture)
    for row, several in views.items()
    for yaw, picture in zip(VIEWS_DEG, several, strict=True)
  ]


def _clay(view: Rendering, yaw: jax.Array) -> Float[np.ndarray, "h w 3"]:
  """Grey matter with the normals of a view, lit from beside the camera, on white."""
  towards = np.array([np.sin(float(yaw) + 0.4), 0.5, np.cos(float(yaw) + 0.4)])
  shading = 0.25 + 0.6 * np.maximum(np.asarray(view.normals[0]) @ (towards / np.linalg.norm(towards)), 0.0)
  acc = np.clip(np.asarray(view.acc[0]), 0.0, 1.0)[..., None]
  return np.repeat(shading[..., None], 3, -1) * acc + 1.0 - acc


def _diffuse(rendering: Rendering, lights: Lights) -> Float[np.ndarray, "h w 3"]:
  """max(0, n . l) on white: the shading without its ambient part and the light's strength."""
  shading, acc = (
    np.asarray(rendering.shading[0], np.float64),
    np.clip(np.asarray(rendering.acc[0]), 0.0, 1.0)[..., None],
  )
  cosine = (shading - float(lights.ambient[0])) / max(float(lights.diffuse[0]), _LEAST_DIFFUSE)
  return np.repeat(np.clip(cosine, 0.0, 1.0) * acc + 1.0 - acc, 3, -1)


def _relit(model: Model, rendering: Rendering, lights: Lights, azimuth: float) -> Float[np.ndarray, "h w 3"]:
  """The photograph's view under a light of its own strength from this angle (degrees) and somewhat above."""
  x, y = np.tan(np.radians(azimuth)), 0.3 / np.cos(np.radians(azimuth))
  code = jnp.concatenate([lights.code[:, :2], jnp.array([[x, y]], lights.code.dtype)], -1)
  color, _ = lambertian(rendering.albedo, rendering.normals, Lights(code))
  background = model.config["rendering"]["background"]
  return np.clip(np.asarray(color + (1.0 - rendering.acc)[..., None] * background)[0], 0.0, 1.0)


def _captioned(rows: Sequence[Sequence[Cell]]) -> UInt8[np.ndarray, "height width 3"]:
  """Rows of pictures, each under its name."""
  width, height = max(map(len, rows)) * (_CELL + _GAP), len(rows) * (_CELL + _CAPTION + _GAP)
  canvas, font = Image.new("RGB", (width, height), "white"), ImageFont.load_default()
  draw = ImageDraw.Draw(canvas)
  for r, row in enumerate(rows):
    for c, (caption, picture) in enumerate(row):
      left, top = c * (_CELL + _GAP), r * (_CELL + _CAPTION + _GAP)
      draw.text((left + 3, top + 1), caption, fill=(60, 60, 60), font=font)
      shown = Image.fromarray(to_uint8(picture)).resize((_CELL, _CELL), Image.Resampling.BICUBIC)
      canvas.paste(shown, (left, top + _CAPTION))
  return np.asarray(canvas).copy()
