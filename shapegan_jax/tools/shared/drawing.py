"""Shared by `render` and `relight`: pictures of instances, rendered one at a time to bound memory, and their layout."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from shapegan_jax.errors import UserError
from shapegan_jax.model import Model
from shapegan_jax.reporting.previews import depth_colors, labelled_grid, pictures, to_uint8
from shapegan_jax.reporting.progress import progress
from shapegan_jax.tools.shared.instances import Instances
from shapegan_jax.types import Cameras, Rendering

LARGEST = 2048
_FIELDS = {"albedo": "albedo", "shading": "shading", "normals": "normals", "depth": "depth"}


def settle(model: Model, subjects: Instances, resolution: int | None, truncation: float) -> tuple[Instances, int]:
  """The instances as truncated codes, and the size of their pictures (None: that of training).

  Raises:
    UserError: a size or truncation out of range.
  """
  if not 0.0 <= truncation <= 1.0:
    raise UserError(f"--truncation={truncation}: must be 0 (the average shape) to 1 (the whole prior)")
  resolution = model.resolution if resolution is None else resolution
  if not 4 <= resolution <= LARGEST:
    raise UserError(f"--resolution={resolution}: must be 4 to {LARGEST} pixels per side")
  codes = model.codes(subjects.latents, truncation=truncation)
  return dataclasses.replace(subjects, latents=codes), resolution


def check_shape(model: Model, asked: str) -> None:
  """A `UserError` if `asked` needs shapes and this model has none."""
  if not model.method.has_shape:
    raise UserError(
      f"{asked}: this model makes pictures without shapes; shapegan lift finds shapes in them, shapegan render "
      "renders them"
    )


def check_shown(model: Model, show: Sequence[str]) -> None:
  """A `UserError` for a map that this model does not have."""
  if maps := [name for name in show if name != "rgb"]:
    check_shape(model, f"--show {maps[0]}")
  if "shading" in show and model.mean_lights(1) is None:
    raise UserError("--show shading: this model has no light; leave it out, or see shapegan relight")
  if "surface" in show and not model.method.has_surface:
    raise UserError("--show surface: this model's field has no surface (only GOF's has one); leave it out")


def turned(
  model: Model, subjects: Instances, yaw: float | None = None, pitch: float | None = None, *, centre: bool = False
) -> Instances:
  """The instances seen at these angles (degrees). None: at their own, or with `centre` at that of the pose prior."""
  cameras = model.central_cameras(len(subjects)) if centre else subjects.cameras

  def angle(given: float | None, own: jax.Array) -> jax.Array:
    return own if given is None else jnp.full_like(own, np.deg2rad(given))

  return dataclasses.replace(subjects, cameras=model.cameras_at(angle(yaw, cameras.yaw), angle(pitch, cameras.pitch)))


def draw(model: Model, groups: Sequence[Instances], show: Sequence[str], *, resolution: int) -> Iterator[Rendering]:
  """For each group one rendering [n, resolution, resolution] of numpy arrays, under one progress bar.

  Contains what `show` names; the rest is dropped to save memory. `extras["surface"]` is the surface rendering.
  """
  count = sum(map(len, groups))
  several = f"{count} pictures" if count > 1 else "a picture"
  print(f"rendering {several} of {resolution}x{resolution}; the first takes longer", flush=True)
  jobs = progress((subject for group in groups for subject in group), "rendering", total=count)
  for group in groups:
    drawn = [_draw_one(model, subject, show, resolution) for subject in itertools.islice(jobs, len(group))]
    yield jax.tree.map(lambda *parts: np.concatenate(parts), *drawn)
  next(jobs, None)  # closes the bar


def _draw_one(model: Model, subject: Instances, show: Sequence[str], resolution: int) -> Rendering:
  arguments = (subject.latents, subject.cameras, subject.lights)
  if set(show) == {"surface"}:
    rgb = model.render_surface(*arguments, resolution=resolution).rgb
    return jax.device_get(Rendering(rgb, extras={"surface": rgb}))
  rendering = model.render(*arguments, resolution=resolution)
  kept = {field: getattr(rendering, field) for name, field in _FIELDS.items() if name in show}
  extras = {}
  if "surface" in show:
    extras["surface"] = model.render_surface(*arguments, resolution=resolution).rgb
  return jax.device_get(Rendering(rendering.rgb, **kept, acc=rendering.acc, extras=extras))


def shown(
  rendering: Rendering, cameras: Cameras, show: Sequence[str], *, span: Rendering | None = None
) -> dict[str, Float[np.ndarray, "n h w 3"]]:
  """The maps that `show` names of a rendering by `draw`, as pictures in [0, 1].

  The greys of depth cover the range of the depths in `span` (None: the rendering's own): in a video, the first frame's.
  """
  found = pictures(rendering, cameras)
  found["rgb"] = found.pop("image")
  if "surface" in show:
    found["surface"] = rendering.extras["surface"].astype(np.float64)
  if "depth" in show and span is not None:
    mask = np.clip(rendering.acc, 0.0, 1.0)
    seen = np.concatenate([span.acc, np.zeros_like(mask)])
    greys = depth_colors(np.concatenate([span.depth, rendering.depth]), seen)[len(span.depth) :]
    found["depth"] = greys * mask[..., None] + (1.0 - mask[..., None])
  return {name: found[name] for name in show}


def sheet(
  rows: Mapping[str, Float[np.ndarray, "n h h 3"]], columns: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
  """Rows of square pictures, each with its label on the left, and a name over each column."""
  grid = labelled_grid(rows)
  cell = grid.shape[0] // len(rows)
  left, height = grid.shape[1] - cell * len(columns), 4 + 12 * (1 + max(name.count("\n") for name in columns))
  header = Image.new("RGB", (grid.shape[1], height), "white")
  for i, name in enumerate(columns):
    strip = Image.new("RGB", (cell - 4, height), "white")  # cuts off a long name
    ImageDraw.Draw(strip).text((2, 2), name, fill=(60, 60, 60), font=ImageFont.load_default())
    header.paste(strip, (left + i * cell, 0))
  return np.concatenate([np.asarray(header), grid])


def frame(rows: Sequence[Float[np.ndarray, "n h w 3"]], *, min_cell: int = 128) -> UInt8[np.ndarray, "height width 3"]:
  """One picture of a video: rows of pictures edge to edge (those of one instance side by side).

  Small pictures are enlarged by integer factors to `min_cell` pixels.
  """
  rows = [np.concatenate(rows)] if len(rows[0]) == 1 else rows
  tiled = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
  scale = -(-min_cell // rows[0].shape[1])
  return to_uint8(tiled).repeat(scale, 0).repeat(scale, 1)


def write_pictures(folder: Path, named: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
  """Write each picture to `folder`/NAME.png: first all to a temporary folder, then each to its place."""
  staging = None
  try:
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    for name, picture in named.items():
      Image.fromarray(picture).save(staging / f"{name}.png", format="PNG")
    for file in sorted(staging.iterdir()):
      os.replace(file, folder / file.name)
  except OSError as error:
    raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from error
  finally:
    if staging is not None:
      shutil.rmtree(staging, ignore_errors=True)


def file_names(names: Sequence[str]) -> list[str]:
  """Names that are valid in file names; if two would be equal, each starts with its number."""
  plain = [re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "subject" for name in names]
  return plain if len(set(plain)) == len(plain) else [f"{i}_{name}" for i, name in enumerate(plain)]
