"""The files of a lifted subject: sheets, mesh, videos and numbers, all or none of them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shapegan_jax.files import aside
from shapegan_jax.meshing.files import write_mesh
from shapegan_jax.methods.gan2shape.engine_settings import Targets
from shapegan_jax.methods.gan2shape.novel_views import in_numbers
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.tools.lifting.pictures import Found, Pictures, Studio
from shapegan_jax.tools.lifting.sheets import result_sheet, steps_sheet
from shapegan_jax.tools.shared.drawing import frame
from shapegan_jax.tools.shared.videos import check_video, write_video
from shapegan_jax.types import Lights, PyTree

SECONDS, FPS = 3.0, 16


@dataclasses.dataclass(frozen=True)
class Formats:
  """What is written beside the sheets: endings of meshes, and of videos (None: no videos)."""

  meshes: tuple[str, ...] = (".glb",)
  video: str | None = ".gif"


def video_ending(wanted: str) -> str | None:
  """The ending for `--video`: mp4 where it can be made, otherwise gif."""
  if wanted == "auto":
    return ".mp4" if all(map(importlib.util.find_spec, ("imageio", "imageio_ffmpeg"))) else ".gif"
  return None if wanted == "none" else f".{wanted}"


def write_subject(
  folder: Path,
  studio: Studio,
  params: PyTree,
  targets: Targets,
  steps: Sequence[Mapping[str, Pictures]],
  about: Mapping[str, Any],
  formats: Formats,
) -> str:
  """Write everything about a subject to its folder; a line that says what was found.

  Args:
    folder: the subject's own.
    studio: draws it.
    params, targets: of the subject (`relief_views.subject_of`).
    steps: of each round, drawings and what the generator made of them.
    about: what else `lift.json` shall hold.
    formats: of meshes and videos.
  """
  found = studio.look(params, targets)
  maps = studio.maps(found, targets)
  sheet = result_sheet(maps, studio.rotations(params, targets, found), studio.relightings(params, targets, found))
  mesh = studio.mesh(found)
  numbers = {**about, **measured(studio, found)}
  numbers["mesh"] = {"vertices": len(mesh.vertices), "triangles": len(mesh.faces)}
  videos = _videos(studio, params, targets, found, formats.video)
  with contextlib.ExitStack() as stack:

    def place(name: str) -> Path:
      return stack.enter_context(aside(folder / name))

    write_png(place("sheet.png"), sheet)
    if steps:
      write_png(place("steps.png"), steps_sheet(steps))
    for ending in formats.meshes:
      write_mesh(place(f"mesh{ending}"), mesh, name=folder.name, notes={"source": str(about.get("source"))})
    for name, pictures in videos.items():
      write_video(place(name), (frame([picture[None]]) for picture in pictures), FPS)
    place("lift.json").write_text(json.dumps(numbers, indent=1) + "\n")
  depth, light = numbers["depth"], numbers["light"]
  direction = ", ".join(f"{x:.2f}" for x in light["direction"])
  return (
    f"{folder / 'sheet.png'}: depth {depth['nearest']:.3f} to {depth['farthest']:.3f}, yaw {numbers['yaw_deg']:.0f}, "
    f"pitch {numbers['pitch_deg']:.0f} degrees, light from ({direction})"
  )


def measured(studio: Studio, found: Found) -> dict[str, Any]:
  """Depth, view and light of a subject, for `lift.json`."""
  reconstruction, camera = found.reconstruction, studio.method.model.camera
  inside = studio.solid(found)
  depth = reconstruction.canonical.depth[inside] if inside.any() else reconstruction.canonical.depth
  yaw, pitch = studio.pose_deg(found)
  return {
    "camera": {"fov_deg": camera.fov_deg, "distance": camera.centre, "resolution": camera.resolution},
    "depth": {"nearest": float(depth.min()), "farthest": float(depth.max()), "mean": float(depth.mean())},
    "yaw_deg": yaw,
    "pitch_deg": pitch,
    "roll_deg": float(np.degrees(reconstruction.views[2])),
    "shift": [float(x) for x in reconstruction.views[3:] * np.array([1.0, -1.0, -1.0])],
    "light": in_numbers(Lights(studio.own_light(found))),
  }


def _videos(studio: Studio, params: PyTree, targets: Targets, found: Found, ending: str | None) -> dict[str, Pictures]:
  """File name -> frames."""
  if ending is None:
    return {}
  frames = check_video(Path(f"rotate{ending}"), SECONDS, FPS)
  moving = {"rotate": studio.rotations, "relight": studio.relightings}
  return {
    f"{name}_{kind.lower()}{ending}": pictures
    for name, draw in moving.items()
    for kind, pictures in draw(params, targets, found, frames).items()
  }
