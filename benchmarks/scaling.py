"""Scaling of a training step with the number of devices, from the compiled program: nothing is run or timed.

  python -m benchmarks.scaling --config=configs/shadegan.py:smoke --devices=1,2,4,8
  python -m benchmarks.scaling --config=configs/pigan.py:celeba --step=0 --output=scaling.json

The processor's compiler stands in for any number of devices. "strong" keeps the batch and shares it, "weak" lets it
grow with the devices. For each: the mesh (pictures x rays of a picture), the trip count of the longest loop of a device
(over chunks of rays), operations and memory of a device, and the collectives: outside of loops (the sum of a network's
gradients is one) and inside, where there should be none.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import jax
from absl import app, flags

from shapegan_jax import parallel
from shapegan_jax.files import aside
from shapegan_jax.methods.catalog import build
from shapegan_jax.planning.costs import collectives
from shapegan_jax.planning.stages import complete, plan_stage
from shapegan_jax.settings import read_settings

_CONFIG = flags.DEFINE_string("config", "configs/shadegan.py:smoke", "FILE or FILE:PRESET.")
_CHANGE = flags.DEFINE_multi_string("change", [], "NAME=VALUE: another value of a setting.")
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices.")
_STEP = flags.DEFINE_integer("step", 0, "The stage of this step.")
_OUTPUT = flags.DEFINE_string("output", None, "Also write the rows as JSON.")


@dataclasses.dataclass(frozen=True)
class Row:
  """A compiled step on some devices."""

  scaling: str
  devices: int
  mesh: tuple[int, int]
  batch: int
  trip_count: int  # of the longest loop
  operations: int  # of a device
  memory: int  # bytes of a device
  collectives: dict[str, int]  # outside of loops
  collectives_in_loops: dict[str, int]


def row(settings: dict[str, Any], devices: int, *, step: int = 0, weak: bool = False) -> Row:
  """The step of a config compiled for `devices` devices."""
  if weak:
    sizes = tuple(devices * size for size in settings["stages"]["batch_size"])
    settings = {**settings, "stages": {**settings["stages"], "batch_size": sizes}}
  method = build(settings)
  mesh = parallel.mesh_for(method.stages, most=devices)
  if mesh.size != devices:
    raise app.UsageError(f"--devices: {devices} devices cannot share this batch")
  plan = plan_stage(method, mesh, step, quick=True)
  trip_counts = [int(n) for n in re.findall(r'known_trip_count":\{"n":"(\d+)"', plan.program.as_text())]
  found = collectives(plan.program)
  outside, inside = ({name: n for (name, within), n in found.items() if within is where} for where in (False, True))
  operations = plan.cost.total // devices
  name = "weak" if weak else "strong"
  batch = plan.stage.batch_size
  return Row(
    name, devices, mesh.devices.shape, batch, max(trip_counts, default=0), operations, plan.memory, outside, inside
  )


def report(rows: list[Row]) -> str:
  """A Markdown table."""
  lines = [
    "| scaling | devices | mesh | batch | trip count | GFLOP a device | MB a device | collectives | in loops |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for r in rows:
    words = [
      ", ".join(f"{n} {name}" for name, n in sorted(each.items())) for each in (r.collectives, r.collectives_in_loops)
    ]
    mesh, flop, size = f"{r.mesh[0]} x {r.mesh[1]}", f"{r.operations / 1e9:.2f}", f"{r.memory / 1e6:.1f}"
    cells = [r.scaling, r.devices, mesh, r.batch, r.trip_count, flop, size, words[0] or "none", words[1] or "none"]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  numbers = [int(n) for n in _DEVICES.value]
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", max(numbers))
  settings = complete(read_settings(_CONFIG.value, _CHANGE.value))[0]
  rows = [row(settings, n, step=_STEP.value) for n in numbers]
  rows += [row(settings, n, step=_STEP.value, weak=True) for n in numbers if n > 1]
  print(report(rows))
  if _OUTPUT.value:
    with aside(_OUTPUT.value) as place:
      place.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
