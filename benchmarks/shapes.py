"""Quality of the shapes of trained generators, compared with each other and with bounds: the README's table.

  python -m benchmarks.shapes --models=pigan=runs/methods/pigan,shadegan=shadegan-heads --workdir=runs/depth

For each model: SIDE and MAD of a depth network trained on its pictures and evaluated on the data set's test split (the
papers' protocol, `shapegan_jax/evaluation/depth_protocol.py`), as numbers and as fractions of those of constant depth;
GOF's weighted variance; and the consistency of its views. Prints Markdown and writes `shapes.json` to the workdir,
beside pictures of the estimated depth. If interrupted, the same command resumes.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

import shapegan_jax
from shapegan_jax.checkpoints import write_json
from shapegan_jax.evaluation.depth_protocol import DepthProtocol, checksum
from shapegan_jax.evaluation.shapes import CONSTANT, MEAN, SUPERVISED, depth_report, view_consistency, weighted_variance
from shapegan_jax.fitting import FitConfig
from shapegan_jax.model import Model

_MODELS = flags.DEFINE_list("models", [], "name=workdir, file or shipped model; several with commas between.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/depth", "Folder for pairs, networks and results.")
_DATA = flags.DEFINE_string("data", "heads", "Data set with ground truth: heads or synface.")
_PATH = flags.DEFINE_string("path", None, "Its directory, where it is not embedded.")
_FOV = flags.DEFINE_float("fov", 12.0, "Angle of view of its pictures, in degrees (synface: 10).")
_PAIRS = flags.DEFINE_integer("pairs", DepthProtocol().pairs, "Pictures that each depth network is trained on.")
_STEPS = flags.DEFINE_integer("steps", DepthProtocol().fit.steps, "Updates of each depth network.")
_WIDTH = flags.DEFINE_integer("width", DepthProtocol().width, "Its width.")
_SAMPLES = flags.DEFINE_integer("samples", 64, "Latents for variance and consistency.")

COLUMNS = {
  "side_e2": ("SIDE x 100", "{:.3f}"),
  "side_e2_of_constant": ("of constant", "{:.0%}"),
  "mad_deg": ("MAD", "{:.2f}°"),
  "mad_deg_of_constant": ("of constant", "{:.0%}"),
  "mad_released_deg": ("MAD as released", "{:.2f}°"),
  "shape/weighted_variance_e4": ("weighted variance x 10^4", "{:.2f}"),
  "view/color_error": ("colour between views", "{:.4f}"),
  "view/depth_error": ("depth between views", "{:.2%}"),
}


def measure(
  results: dict[str, Any], name: str, model: Model | None, data: dict[str, Any], protocol: DepthProtocol
) -> None:
  """Compute the row of one model (None: those of the bounds), unless it exists for these parameters and settings."""
  settings = {"data": data, "protocol": dataclasses.asdict(protocol), "samples": _SAMPLES.value}
  identity = json.loads(json.dumps({**settings, "params": None if model is None else checksum(model.params)}))
  if results.get(name, {}).get("identity") == identity:
    return
  begun = time.monotonic()
  models = {} if model is None else {name: model}
  rows = depth_report(
    models, _WORKDIR.value, data=data, protocol=protocol, fov_deg=_FOV.value, supervised=model is None
  )
  for row in rows if model is None else [name]:
    results[row] = {**rows[row], "identity": identity}
  if model is not None:
    results[name] |= view_consistency(model, samples=_SAMPLES.value) | weighted_variance(model, samples=_SAMPLES.value)
    results[name]["step"] = model.step
  results[name]["seconds"] = time.monotonic() - begun
  write_json(Path(_WORKDIR.value) / "shapes.json", results)


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  data = {"name": _DATA.value, **({"path": _PATH.value} if _PATH.value else {})}
  fit = FitConfig(**{**dataclasses.asdict(DepthProtocol().fit), "steps": _STEPS.value})
  protocol = DepthProtocol(pairs=_PAIRS.value, width=_WIDTH.value, fit=fit)
  path = Path(_WORKDIR.value) / "shapes.json"
  results = json.loads(path.read_text()) if path.exists() else {}
  measure(results, SUPERVISED, None, data, protocol)
  names = []
  for entry in _MODELS.value:
    name, _, where = entry.partition("=")
    measure(results, name, shapegan_jax.load(where or name), data, protocol)
    names.append(name)
  print(f"\n{platform.machine()}, {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
  print(f"{_PAIRS.value} pairs, {_STEPS.value} steps, depth network {_WIDTH.value} wide\n")
  print("| | " + " | ".join(label for label, _ in COLUMNS.values()) + " |")
  print("|---" * (len(COLUMNS) + 1) + "|")
  for name in [CONSTANT, MEAN, *names, SUPERVISED]:
    cells = [form.format(results[name][key]) if key in results[name] else "" for key, (_, form) in COLUMNS.items()]
    print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
  app.run(main)
