"""The output files of an instance: sheets, mesh, videos and numbers, written all or not at all."""

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
from shapegan_jax.methods.gan2shape.novel_views import light_as_json
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.tools.lifting.renderer import Images, InstanceRenderer, Prediction
from shapegan_jax.tools.lifting.sheets import result_sheet, samples_sheet
from shapegan_jax.tools.shared.drawing import frame
from shapegan_jax.tools.shared.videos import check_video, write_video
from shapegan_jax.types import Lights, PyTree

SECONDS, FPS = 3.0, 16


@dataclasses.dataclass(frozen=True)
class Formats:
  """File endings of the meshes, and of the videos (None: no videos)."""

  meshes: tuple[str, ...] = (".glb",)
  video: str | None = ".gif"


def video_ending(option: str) -> str | None:
  """The file ending for `--video`; "auto" is mp4 if its libraries are installed, otherwise gif."""
  if option == "auto":
    return ".mp4" if all(map(importlib.util.find_spec, ("imageio", "imageio_ffmpeg"))) else ".gif"
  return None if option == "none" else f".{option}"


def write_instance(
  folder: Path,
  renderer: InstanceRenderer,
  params: PyTree,
  targets: Targets,
  samples: Sequence[Mapping[str, Images]],
  about: Mapping[str, Any],
  formats: Formats,
) -> str:
  """Write all files of an instance to its folder; returns a line that summarises the result.

  Args:
    folder: of this instance alone.
    renderer: of the run.
    params, targets: of the instance (`novel_views.select_instance`).
    samples: pseudo and projected samples of each round.
    about: further content of `lift.json`.
    formats: of meshes and videos.
  """
  prediction = renderer.predict(params, targets)
  maps = renderer.maps(prediction, targets)
  rotations = renderer.rotations(params, targets, prediction)
  sheet = result_sheet(maps, rotations, renderer.relightings(params, targets, prediction))
  mesh = renderer.mesh(prediction)
  numbers = {**about, **measurements(renderer, prediction)}
  numbers["mesh"] = {"vertices": len(mesh.vertices), "triangles": len(mesh.faces)}
  videos = _videos(renderer, params, targets, prediction, formats.video)
  with contextlib.ExitStack() as stack:

    def place(name: str) -> Path:
      return stack.enter_context(aside(folder / name))

    write_png(place("sheet.png"), sheet)
    if samples:
      write_png(place("steps.png"), samples_sheet(samples))
    for ending in formats.meshes:
      write_mesh(place(f"mesh{ending}"), mesh, name=folder.name, notes={"source": str(about.get("source"))})
    for name, images in videos.items():
      write_video(place(name), (frame([image[None]]) for image in images), FPS)
    place("lift.json").write_text(json.dumps(numbers, indent=1) + "\n")
  depth, light = numbers["depth"], numbers["light"]
  direction = ", ".join(f"{x:.2f}" for x in light["direction"])
  return (
    f"{folder / 'sheet.png'}: depth {depth['nearest']:.3f} to {depth['farthest']:.3f}, yaw {numbers['yaw_deg']:.0f}, "
    f"pitch {numbers['pitch_deg']:.0f} degrees, light from ({direction})"
  )


def measurements(renderer: InstanceRenderer, prediction: Prediction) -> dict[str, Any]:
  """Depth, view and light of an instance, for `lift.json`."""
  reconstruction, camera = prediction.reconstruction, renderer.method.model.camera
  inside = renderer.object_mask(prediction)
  depth = reconstruction.canonical.depth[inside] if inside.any() else reconstruction.canonical.depth
  yaw, pitch = renderer.pose_deg(prediction)
  return {
    "camera": {"fov_deg": camera.fov_deg, "distance": camera.centre, "resolution": camera.resolution},
    "depth": {"nearest": float(depth.min()), "farthest": float(depth.max()), "mean": float(depth.mean())},
    "yaw_deg": yaw,
    "pitch_deg": pitch,
    "roll_deg": float(np.degrees(reconstruction.views[2])),
    "shift": [float(x) for x in reconstruction.views[3:] * np.array([1.0, -1.0, -1.0])],
    "light": light_as_json(Lights(renderer.light_code(prediction))),
  }


def _videos(
  renderer: InstanceRenderer, params: PyTree, targets: Targets, prediction: Prediction, ending: str | None
) -> dict[str, Images]:
  """File name -> frames."""
  if ending is None:
    return {}
  frames = check_video(Path(f"rotate{ending}"), SECONDS, FPS)
  renderings = {"rotate": renderer.rotations, "relight": renderer.relightings}
  return {
    f"{name}_{kind.lower()}{ending}": images
    for name, render in renderings.items()
    for kind, images in render(params, targets, prediction, frames).items()
  }
