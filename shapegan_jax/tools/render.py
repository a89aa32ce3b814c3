"""`shapegan render`: pictures and videos of a trained generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shapegan_jax.errors import UserError
from shapegan_jax.tools.shared.outputs import check_folder, check_output

if TYPE_CHECKING:
  from shapegan_jax.model import Model
  from shapegan_jax.tools.shared.instances import Instances
  from shapegan_jax.types import Array

VIDEOS = (".mp4", ".gif")
_TURNED_DEG = (-35.0, 35.0)
_ORBIT_DEG = {"yaw": 35.0, "pitch": 12.0}

Shown = Literal["rgb", "albedo", "shading", "normals", "depth", "surface"]


def render(
  *,
  model: str,
  output: Path,
  seeds: tuple[int, ...] = (0, 1, 2, 3),
  codes: Path | None = None,
  show: tuple[Shown, ...] = (),
  yaw: tuple[float, ...] = (),
  pitch: tuple[float, ...] = (),
  resolution: int | None = None,
  truncation: float = 1.0,
  grid: bool = True,
  video: Literal["orbit", "interpolate"] | None = None,
  seconds: float = 6.0,
  fps: int = 24,
) -> None:
  """Render a trained generator: a labelled sheet, single pictures, or a video.

  shapegan render --model=shadegan-heads --output=heads.png --seeds 0 1 2 3

  The sheet has a column for each seed and shows by default all maps of the model and two more views (for StyleGAN2,
  which has no shapes, only pictures). With --yaw or --pitch it has a row for each angle instead (both: for each
  pair), by default with --show=rgb.

  Args:
    model: A shipped model's name, a workdir of shapegan_jax.main, or an exported .safetensors file.
    output: The file to write, by its ending a sheet (.png) or a video (.mp4, .gif); with --no-grid a folder.
    seeds: One shape each, always the same for a seed.
    codes: Shapes found by shapegan invert, instead of seeds.
    show: What to render: rgb, albedo, shading, normals, depth, surface (GOF's rendering by one point per ray).
    yaw: Degrees from the front, positive to the object's left; for an orbit the two ends.
    pitch: Degrees from the front, positive from above; for an orbit the two ends.
    resolution: Height and width of a picture in pixels; by default as in training.
    truncation: 1 draws from the whole prior; towards 0, shapes come closer to the average one.
    grid: All in one sheet; --no-grid writes each picture to a file in the folder --output.
    video: orbit moves the camera around the front; interpolate walks from seed to seed and back to the first.
      By default orbit.
    seconds: Length of a video.
    fps: Frames per second of a video.
  """
  if _check_output(output, grid, video):
    from shapegan_jax.tools.shared.videos import check_video

    frames = check_video(output, seconds, fps)
    video = video or "orbit"
  _check_angles(yaw, pitch, video)
  # Heavy imports come last.
  from shapegan_jax.model import load
  from shapegan_jax.tools.shared import drawing
  from shapegan_jax.tools.shared.instances import choose

  loaded = load(model)
  drawing.check_shown(loaded, show)
  if yaw or pitch or video == "orbit":
    drawing.check_shape(loaded, "--yaw" if yaw else "--pitch" if pitch else "--video=orbit")
  subjects, size = drawing.settle(loaded, choose(loaded, seeds, codes), resolution, truncation)
  if video:
    path = (interpolation if video == "interpolate" else orbit)(loaded, subjects, frames, yaw, pitch)
    _write_video(loaded, output, path, show or ("rgb",), size, fps)
  else:
    _write_pictures(loaded, output, subjects, show, _poses(yaw, pitch), size, grid)


def _check_output(output: Path, grid: bool, video: str | None) -> bool:
  """Whether a video is to be written."""
  moving = output.suffix.lower() in VIDEOS
  if moving and not grid:
    raise UserError(f"--no-grid: writes pictures to a folder, and {output} is a video; leave one of them out")
  if video is not None and not moving:
    raise UserError(f"--video={video}: needs an --output that ends in .mp4 or .gif, found {output}")
  if grid:
    check_output(output, (".png", *VIDEOS))
  else:
    check_folder(output)
  return moving


def _check_angles(yaw: Sequence[float], pitch: Sequence[float], video: str | None) -> None:
  for name, angles, most in (("yaw", yaw, 360), ("pitch", pitch, 89)):
    if bad := [angle for angle in angles if not abs(angle) <= most]:
      raise UserError(f"--{name}: {bad[0]} is not within -{most} to {most} degrees")
    if video == "interpolate" and len(angles) > 1:
      raise UserError(f"--{name}: one angle is enough for --video=interpolate, found {len(angles)}")
    if video == "orbit" and len(angles) > 2:
      raise UserError(f"--{name}: an orbit has two ends, found {len(angles)} angles")


def _poses(yaw: Sequence[float], pitch: Sequence[float]) -> dict[str, tuple[float | None, float | None]]:
  """Label -> angles in degrees; empty where none were given."""
  if not yaw and not pitch:
    return {}
  pairs = [(y, p) for p in pitch or (None,) for y in yaw or (None,)]
  return {_pose_label(y, p): (y, p) for y, p in pairs}


def _pose_label(yaw: float | None, pitch: float | None) -> str:
  parts = [
    f"{name} {angle:+g}" if angle else f"{name} 0"
    for name, angle in (("yaw", yaw), ("pitch", pitch))
    if angle is not None
  ]
  return "\n".join(parts)


def _write_pictures(
  model: Model,
  output: Path,
  subjects: Instances,
  show: tuple[str, ...],
  poses: dict[str, tuple[float | None, float | None]],
  resolution: int,
  grid: bool,
) -> None:
  from shapegan_jax.reporting.previews import to_uint8
  from shapegan_jax.reporting.writer import write_png
  from shapegan_jax.tools.shared import drawing

  # Label of a pose -> the subjects there, and what is shown of them.
  views = {label: (drawing.turned(model, subjects, *angles), show or ("rgb",)) for label, angles in poses.items()}
  if not poses:
    known = ("rgb", "normals", "depth") if subjects.lights is None else ("rgb", "albedo", "shading", "normals", "depth")
    shapes = model.method.has_shape
    views = {"": (subjects, show or (known if shapes else ("rgb",)))}
    if not show and shapes:
      sides = {_pose_label(angle, None): drawing.turned(model, subjects, angle) for angle in _TURNED_DEG}
      views |= {label: (there, ("rgb",)) for label, there in sides.items()}
  rows = {}
  wanted = tuple(dict.fromkeys(name for _, names in views.values() for name in names))
  renderings = drawing.draw(model, [there for there, _ in views.values()], wanted, resolution=resolution)
  for (label, (there, names)), rendering in zip(views.items(), renderings, strict=True):
    for name, pictures in drawing.shown(rendering, there.cameras, names).items():
      both = "\n".join(filter(None, (label, name)))
      rows[label if label and len(names) == 1 else both] = pictures
  if grid:
    write_png(output, drawing.sheet(rows, subjects.names))
    print(f"{output}: {len(rows)} rows, the columns are {', '.join(subjects.names)}")
    return
  columns = drawing.file_names(subjects.names)
  labels = [label.replace(" ", "").replace("\n", "_") for label in rows]
  named = {
    f"{column}_{label}": to_uint8(pictures[i])
    for label, pictures in zip(labels, rows.values(), strict=True)
    for i, column in enumerate(columns)
  }
  drawing.write_pictures(output, named)
  print(f"{output}: {len(named)} pictures, {next(iter(named))}.png the first")


def orbit(
  model: Model, subjects: Instances, frames: int, yaw: Sequence[float] = (), pitch: Sequence[float] = ()
) -> list[Instances]:
  """The instances in every frame of a closed path around the front, or between the given angles (degrees)."""
  from shapegan_jax.tools.shared import drawing

  centre = model.central_cameras(1)
  ends = {}
  for name, given, middle in (("yaw", yaw, centre.yaw), ("pitch", pitch, centre.pitch)):
    middle = math.degrees(float(middle[0]))
    given = given or (middle - _ORBIT_DEG[name], middle + _ORBIT_DEG[name])
    ends[name] = (sum((min(given), max(given))) / 2, (max(given) - min(given)) / 2)
  path = []
  for i in range(frames):
    turn = 2 * math.pi * i / frames
    angles = ends["yaw"][0] + ends["yaw"][1] * math.sin(turn), ends["pitch"][0] + ends["pitch"][1] * math.cos(turn)
    path.append(drawing.turned(model, subjects, *angles))
  return path


def interpolation(
  model: Model, subjects: Instances, frames: int, yaw: Sequence[float] = (), pitch: Sequence[float] = ()
) -> list[Instances]:
  """One instance in every frame of a closed walk from each of the instances to the next.

  Codes, not latents, are mixed, as pi-GAN's authors do. The weight of the next is (1 - cos(pi t))/2: the walk is smooth
  and pauses at every instance, and every mixture lies between two of them.
  """
  import jax
  import jax.numpy as jnp

  from shapegan_jax.tools.shared import drawing
  from shapegan_jax.tools.shared.instances import Instances

  if len(subjects) < 2:
    raise UserError("--video=interpolate: needs two subjects or more, such as --seeds 0 1 2")
  ends = drawing.turned(model, subjects, *(angles[0] if angles else None for angles in (yaw, pitch)))
  values = ends.latents, ends.cameras.yaw, ends.cameras.pitch, ends.lights
  path = []
  for i in range(frames):
    here, share = divmod(i * len(ends) / frames, 1.0)
    weights = jnp.zeros(len(ends)).at[int(here)].set((1 + math.cos(math.pi * share)) / 2)
    weights = weights.at[(int(here) + 1) % len(ends)].set((1 - math.cos(math.pi * share)) / 2)
    latents, yaws, pitches, lights = jax.tree.map(partial(_mixed, weights), values)
    path.append(Instances(latents, model.cameras_at(yaws, pitches), lights, ("walk",)))
  return path


def _mixed(weights: Array, values: Array) -> Array:
  """[1, ...], the weighted sum of [n, ...]."""
  return (weights.reshape(-1, *[1] * (values.ndim - 1)) * values).sum(0, keepdims=True)


def _write_video(
  model: Model, output: Path, path: list[Instances], show: tuple[str, ...], resolution: int, fps: int
) -> None:
  from shapegan_jax.tools.shared import drawing
  from shapegan_jax.tools.shared.videos import write_video

  def frames():
    first = None
    for there, rendering in zip(path, drawing.draw(model, path, show, resolution=resolution), strict=True):
      first = first or rendering
      yield drawing.frame(list(drawing.shown(rendering, there.cameras, show, span=first).values()))

  write_video(output, frames(), fps)
  print(f"{output}: {len(path)} frames, {len(path) / fps:.1f} seconds")
