"""Comparison of the NeRF-GAN configs at the same budget: the README's table and picture.

  python -m benchmarks.methods --workdir=runs/methods --picture=methods.png
  python -m benchmarks.methods --workdir=runs/methods --configs=pigan,gof --preset=smoke

Trains each config (an existing run is resumed), measures it by `--mode=eval`, and then times one training step
of every stage, all configs in turn in one process, so that noise of the machine affects all alike: medians of
`--rounds` rounds.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

import shapegan_jax
from shapegan_jax.checkpoints import read_config
from shapegan_jax.evaluation.preview import preview
from shapegan_jax.methods.catalog import build
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.rng import root_key
from shapegan_jax.state import parameter_count

_WORKDIR = flags.DEFINE_string("workdir", "runs/methods", "Folder of the runs: one folder a config.")
_CONFIGS = flags.DEFINE_list("configs", ["graf", "pigan", "gof", "shadegan", "gof_shaded"], "Files in configs/.")
_PRESET = flags.DEFINE_string("preset", "heads", "Preset of each.")
_STEPS = flags.DEFINE_integer("steps", 0, "Steps of each run; 0: the preset's.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds; 0: no timing.")
_PICTURE = flags.DEFINE_string("picture", None, "Also write a picture of all methods.")
_COLUMNS = flags.DEFINE_integer("columns", 4, "Latents of each method in the picture.")


def train_and_measure(name: str) -> dict[str, Any]:
  """Train and evaluate one config; the numbers of its `eval.json`."""
  workdir = Path(_WORKDIR.value) / name
  workdir.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-m", "shapegan_jax.main", f"--workdir={workdir}"]
  config = [f"--config=configs/{name}.py:{_PRESET.value}"]
  config += [f"--config.num_steps={_STEPS.value}"] if _STEPS.value else []
  subprocess.run([*command, *config], check=True)
  result = workdir / "eval.json"
  if not result.exists() or json.loads(result.read_text())["step"] < read_config(workdir)["num_steps"]:
    subprocess.run([*command, "--mode=eval"], check=True)
  return json.loads(result.read_text())


def step_times(names: list[str]) -> dict[str, list[tuple[int, float]]]:
  """{name: [(resolution, median seconds of a step), ...]}, the last program of each resolution."""
  programs = []
  for name in names:
    method = build(read_config(Path(_WORKDIR.value) / name))
    for step, stage in {stage.resolution: (start, stage) for start, stage in method.stages}.values():
      key = root_key(0)
      state = jax.jit(method.init)(key)
      size = (stage.batch_size, stage.resolution, stage.resolution, 3)
      batch = {"image": np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)}
      anneals = {name: np.float32(value) for name, value in method.plan(step)[1].items()}
      update = jax.jit(method.update, static_argnames="stage")
      arguments = (state, batch, key, anneals)
      jax.block_until_ready(update(*arguments, stage=stage))
      programs.append((name, stage, update, arguments, []))
  for _ in range(_ROUNDS.value):
    for _, stage, update, arguments, seconds in programs:
      begun = time.perf_counter()
      jax.block_until_ready(update(*arguments, stage=stage))
      seconds.append(time.perf_counter() - begun)
  times: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
  for name, stage, _, _, seconds in programs:
    times[name].append((stage.resolution, statistics.median(seconds)))
  return times


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  names, rows, pictures = _CONFIGS.value, {}, []
  for name in names:
    report = train_and_measure(name)
    model = shapegan_jax.load(Path(_WORKDIR.value) / name)
    rows[name] = {**report, "parameters": parameter_count(model.params)}
    if _PICTURE.value:
      pictures.append(preview(model, count=_COLUMNS.value))
  times = step_times(names) if _ROUNDS.value else {}
  print(f"\n{platform.machine()}, {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}\n")
  print("| config | parameters | steps | seconds a step | convex | depth deviation / data's | normals: field - depth |")
  print("|---|---|---|---|---|---|---|")
  for name, row in rows.items():
    seconds = ", ".join(f"{median:.2f} ({size}x{size})" for size, median in times.get(name, []))
    rows[name]["seconds_per_step"] = times.get(name, [])
    numbers = (row[f"shape/{key}"] for key in ("convex_share", "depth_deviation_ratio", "normal_disagreement_deg"))
    convex, ratio, angle = numbers
    print(
      f"| `{name}` | {row['parameters']:,} | {row['step']:,} | {seconds} | {convex:.0%} of {row['samples']} "
      f"| {ratio:.2f} | {angle:.1f}° |"
    )
  (Path(_WORKDIR.value) / "methods.json").write_text(json.dumps(rows, indent=1))
  if _PICTURE.value:
    height = max(picture.shape[0] for picture in pictures)
    padded = [
      np.pad(picture, ((0, height - len(picture)), (0, 12), (0, 0)), constant_values=255) for picture in pictures
    ]
    write_png(_PICTURE.value, np.concatenate(padded, 1))


if __name__ == "__main__":
  app.run(main)
