"""`shapegan relight`: shapes under other lights, as a sheet or a video."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shapegan_jax.errors import UserError
from shapegan_jax.tools.shared.outputs import check_output

if TYPE_CHECKING:
  import numpy as np

  from shapegan_jax.model import Model
  from shapegan_jax.tools.shared.instances import Instances
  from shapegan_jax.types import Array, Lights, Rendering

VIDEOS = (".mp4", ".gif")
_SWEEP = ((-70.0, 0.0), (-35.0, 0.0), (0.0, 0.0), (35.0, 0.0), (70.0, 0.0), (0.0, 50.0), (0.0, -50.0))
_CIRCLE = (65.0, 45.0)
_UNLIT = (0.35, 0.65)  # ambient and diffuse for models without light


def relight(
  *,
  model: str,
  output: Path,
  seeds: tuple[int, ...] = (0, 1, 2, 3),
  codes: Path | None = None,
  azimuth: tuple[float, ...] = (),
  elevation: tuple[float, ...] = (),
  ambient: float | None = None,
  diffuse: float | None = None,
  light_from: Path | None = None,
  resolution: int | None = None,
  truncation: float = 1.0,
  seconds: float = 4.0,
  fps: int = 24,
) -> None:
  """Render shapes under other lights: side by side in a sheet, or a video of a circling light.

  shapegan relight --model=shadegan-heads --output=relit.png --seeds 0 1 2 3

  Lights are white: an ambient and a directional one, fixed relative to the object. The sheet has a row for each seed:
  its own light, albedo, normals, and each of the lights; by default a sweep. Shapes are rendered once and only shaded
  again. Models without light can be lit, too, with their colours as albedo.

  Args:
    model: A shipped model's name, a workdir of shapegan_jax.main, or an exported .safetensors file.
    output: The file to write, by its ending a sheet (.png) or a video (.mp4, .gif).
    seeds: One shape each, always the same for a seed.
    codes: Shapes found by shapegan invert, in their own poses, instead of seeds.
    azimuth: Degrees of the light from the front, positive towards the object's left (+x), 180 from behind; several:
      one column each. For a video the two ends.
    elevation: Degrees of the light, positive from above; several: each with each azimuth. For a video the two ends.
    ambient: Light from everywhere, 0 to 1; by default that of each shape's own light.
    diffuse: Strength of the directional light, 0 to 1; by default that of each shape's own light.
    light_from: A picture, framed like the training set, from which the light is estimated.
    resolution: Height and width of a picture in pixels; by default as in training.
    truncation: 1 draws from the whole prior; towards 0, shapes come closer to the average one.
    seconds: Length of a video.
    fps: Frames per second of a video.
  """
  check_output(output, (".png", *VIDEOS))
  moving = output.suffix.lower() in VIDEOS
  _check_light(azimuth, elevation, ambient, diffuse, light_from, moving)
  if moving:
    from shapegan_jax.tools.shared.videos import check_video

    frames = check_video(output, seconds, fps)
  # Heavy imports come last.
  from shapegan_jax.geometry.lights import lights_from_angles
  from shapegan_jax.inversion import light_estimation as light_fit
  from shapegan_jax.model import load
  from shapegan_jax.tools.shared import drawing
  from shapegan_jax.tools.shared.instances import choose

  if light_from is not None:
    light_fit.read_picture(light_from, 64, "--light-from")
  loaded = load(model)
  drawing.check_shape(loaded, "shapegan relight")
  if light_from is not None and loaded.mean_lights(1) is None:
    raise UserError("--light-from: this model has no light and cannot estimate one; use a ShadeGAN")
  subjects, size = drawing.settle(loaded, choose(loaded, seeds, codes), resolution, truncation)
  _notes(loaded)
  rendering = next(drawing.draw(loaded, [subjects], ("rgb", "albedo", "normals"), resolution=size))
  strengths = _strengths(subjects, ambient, diffuse)
  background = loaded.method.background
  if moving:
    _write_video(output, rendering, strengths, background, _circle(azimuth, elevation, frames), fps)
    return
  if light_from is not None:
    found = light_fit.estimate_lights(loaded, light_fit.read_picture(light_from, 64, "--light-from")[None])
    print(f"light of {light_from}: {_in_words(found)}")
    photo = light_fit.read_picture(light_from, size, "--light-from") / 255.0
    lit = light_fit.relit(rendering, _repeated(found, len(subjects)), background)
    columns = {"picture": [photo] * len(subjects), "its light": lit}
  else:
    columns = {}
    for a, e in _sweep(azimuth, elevation):
      lights, behind = lights_from_angles(math.radians(a), math.radians(e), *strengths)
      columns[f"az {a:g}\nel {e:g}"] = light_fit.relit(rendering, lights, background, behind=behind)
  _write_sheet(output, subjects, rendering, columns)


def _check_light(
  azimuth: Sequence[float],
  elevation: Sequence[float],
  ambient: float | None,
  diffuse: float | None,
  light_from: Path | None,
  moving: bool,
) -> None:
  for name, angles, most in (("azimuth", azimuth, 180), ("elevation", elevation, 90)):
    if bad := [angle for angle in angles if not abs(angle) <= most]:
      raise UserError(f"--{name}: {bad[0]} is not within -{most} to {most} degrees")
    if moving and len(angles) > 2:
      raise UserError(f"--{name}: the light of a video moves between two angles, found {len(angles)} angles")
  for name, strength in (("ambient", ambient), ("diffuse", diffuse)):
    if strength is not None and not 0 <= strength <= 1:
      raise UserError(f"--{name}={strength}: must be 0 to 1")
  if light_from is not None and (azimuth or elevation or ambient is not None or diffuse is not None):
    raise UserError("--light-from: the picture determines the light; leave --azimuth and the like out")
  if light_from is not None and moving:
    raise UserError("--light-from: gives one light, for a sheet; name an --output that ends in .png")


def _notes(model: Model) -> None:
  if model.mean_lights(1) is None:
    print("note: this model has no light: its colours are used as albedo, although they contain some shading")
  elif model.method.light_conditioned:
    print("note: this model's albedo depends on the light; here it is that under its own light")


def _strengths(subjects: Instances, ambient: float | None, diffuse: float | None) -> tuple[Array, Array]:
  """Ambient and diffuse [n]."""
  import jax.numpy as jnp

  own = _UNLIT if subjects.lights is None else (subjects.lights.ambient, subjects.lights.diffuse)
  given = [default if strength is None else strength for default, strength in zip(own, (ambient, diffuse), strict=True)]
  return tuple(jnp.broadcast_to(jnp.asarray(strength, jnp.float32), (len(subjects),)) for strength in given)


def _sweep(azimuth: Sequence[float], elevation: Sequence[float]) -> list[tuple[float, float]]:
  if not azimuth and not elevation:
    return list(_SWEEP)
  return [(a, e) for e in elevation or (0.0,) for a in azimuth or (0.0,)]


def _circle(azimuth: Sequence[float], elevation: Sequence[float], frames: int) -> list[tuple[float, float]]:
  """A closed path of directions between the ends."""
  (low_a, high_a), (low_e, high_e) = (
    (min(given), max(given)) if given else (-most, most)
    for given, most in zip((azimuth, elevation), _CIRCLE, strict=True)
  )
  turns = [2 * math.pi * i / frames for i in range(frames)]
  return [
    (
      (low_a + high_a) / 2 + (high_a - low_a) / 2 * math.sin(turn),
      (low_e + high_e) / 2 + (high_e - low_e) / 2 * math.cos(turn),
    )
    for turn in turns
  ]


def _repeated(lights: Lights, n: int) -> Lights:
  import jax
  import jax.numpy as jnp

  return jax.tree.map(lambda x: jnp.repeat(x, n, 0), lights)


def _in_words(lights: Lights) -> str:
  from shapegan_jax.geometry.lights import angles_from_lights

  a, e = (math.degrees(angle[0]) for angle in angles_from_lights(lights))
  strengths = f"ambient {float(lights.ambient[0]):.2f}, diffuse {float(lights.diffuse[0]):.2f}"
  return f"azimuth {a:.0f}, elevation {e:.0f} degrees, {strengths} (an estimate)"


def _write_sheet(
  output: Path, subjects: Instances, rendering: Rendering, columns: dict[str, np.ndarray | Array | list[np.ndarray]]
) -> None:
  import numpy as np

  from shapegan_jax.reporting.writer import write_png
  from shapegan_jax.tools.shared import drawing

  known = drawing.shown(rendering, subjects.cameras, ("rgb", "albedo", "normals"))
  if subjects.lights is None:
    own = {"as learnt": known["rgb"], "normals": known["normals"]}
  else:
    own = {"own light": known["rgb"], "albedo": known["albedo"], "normals": known["normals"]}
  columns = own | columns
  rows = {
    name: np.stack([np.asarray(pictures[i], np.float64) for pictures in columns.values()])
    for i, name in enumerate(subjects.names)
  }
  write_png(output, drawing.sheet(rows, list(columns)))
  print(f"{output}: {len(columns)} columns, the rows are {', '.join(subjects.names)}")


def _write_video(
  output: Path,
  rendering: Rendering,
  strengths: tuple[Array, Array],
  background: float,
  path: list[tuple[float, float]],
  fps: int,
) -> None:
  import numpy as np

  from shapegan_jax.geometry.lights import lights_from_angles
  from shapegan_jax.inversion import light_estimation as light_fit
  from shapegan_jax.reporting.progress import progress
  from shapegan_jax.tools.shared import drawing
  from shapegan_jax.tools.shared.videos import write_video

  def frames() -> Iterator[np.ndarray]:
    for a, e in progress(path, "shading"):
      lights, behind = lights_from_angles(math.radians(a), math.radians(e), *strengths)
      lit = light_fit.relit(rendering, lights, background, behind=behind)
      yield drawing.frame([np.asarray(lit, np.float64)])

  write_video(output, frames(), fps)
  print(f"{output}: {len(path)} frames, {len(path) / fps:.1f} seconds")
