"""A plan as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax

from shapegan_jax import parallel
from shapegan_jax.planning.devices import BANDWIDTH_SHARE, MATRIX_SHARE, MEMORY_SHARE, Device
from shapegan_jax.planning.stages import RunPlan
from shapegan_jax.programs import stage_words
from shapegan_jax.reporting.progress import byte_count, duration


@dataclasses.dataclass(frozen=True)
class Column:
  """A run on a kind of device. `seconds` are those of a step of each stage, measured or predicted."""

  device: Device
  run: RunPlan
  seconds: tuple[float, ...]
  measured: bool

  @classmethod
  def of(cls, device: Device, run: RunPlan, measured: Sequence[float] | None = None) -> Column:
    """With predicted times, unless measured ones are given."""
    foretold = [device.seconds(plan.cost) / run.mesh.size for plan in run.stages]
    return cls(device, run, tuple(measured or foretold), measured is not None)

  @property
  def total(self) -> float:
    """Seconds of all steps."""
    return sum(plan.steps * seconds for plan, seconds in zip(self.run.stages, self.seconds, strict=True))

  @property
  def fits(self) -> bool | None:
    """Whether every stage fits; None if the device's memory is unknown."""
    return self.device.holds(self.run.memory)


def as_text(columns: Sequence[Column], remarks: Sequence[str]) -> str:
  """Two tables, of stages and of devices, and notes."""
  here, there = columns[0].run, columns[-1].run
  mesh, steps = here.mesh, sum(plan.steps for plan in here.stages)
  lines = [
    f"plan       {here.config['method']}, {steps:,} steps on {mesh.size} x {mesh.devices.flat[0].device_kind}",
    f"parameters {here.parameters:,} in the generator; the whole state takes {byte_count(here.state)} per device",
    "",
    *aligned(_stage_table(here, there)),
    "",
    *aligned(_device_table(columns)),
    "",
    *_remarks(columns),
    *remarks,
  ]
  return "\n".join(lines)


def _stage_table(here: RunPlan, there: RunPlan) -> list[list[str]]:
  """A row for each stage; the program for accelerators has its own columns if it differs."""
  runs = {"": here} if there is here else {" here": here, " on accelerators": there}
  rows = [["#", "stage", "from", "steps", "batch per device"]]
  rows[0] += [f"{what}{where}" for where in runs for what in ("GFLOP per step", "memory")]
  for i, plan in enumerate(here.stages):
    row = [str(i + 1), stage_words(plan.stage), f"{plan.start:,}", f"{plan.steps:,}", str(plan.rows)]
    for run in runs.values():
      row += [f"{run.stages[i].cost.total / 1e9:,.3g}", byte_count(run.stages[i].memory)]
    rows.append(row)
  return rows


def _device_table(columns: Sequence[Column]) -> list[list[str]]:
  """A column for each device: times, and whether it fits."""
  rows = [["one step of", *(column.device.name for column in columns)]]
  for i in range(len(columns[0].seconds)):
    rows.append([f"stage {i + 1}", *(short_time(column.seconds[i]) for column in columns)])
  rows.append(["all steps", *(duration(column.total) for column in columns)])
  rows.append(["needs", *(byte_count(column.run.memory) for column in columns)])
  rows.append(["of", *("?" if c.device.memory is None else byte_count(int(c.device.memory)) for c in columns)])
  rows.append(["fits", *({True: "yes", False: "no", None: "?"}[column.fits] for column in columns)])
  return rows


def _remarks(columns: Sequence[Column]) -> list[str]:
  """How reliable the numbers are."""
  here, mesh = columns[0], columns[0].run.mesh
  how = "measured" if here.measured else "an estimate, for an otherwise idle machine"
  found = [f"times      this one: {how}"]
  if columns[1:]:
    found.append(
      f"           others: a model, not measured: {MATRIX_SHARE:.0%} of the published matrix peak, "
      f"{BANDWIDTH_SHARE:.0%} of the bandwidth; steps under 10 ms take longer than predicted"
    )
  found.append(f"memory     of a step, by the compiler; at most {MEMORY_SHARE:.0%} of a device's memory may be used")
  if columns[-1].run is not here.run:
    found.append("           others: the plan of this processor's compiler for the larger chunks of accelerators")
  idle = jax.device_count() - mesh.size
  if idle:
    found.append(f"devices    {idle} more are idle: they cannot share the batches equally")
  if mesh.shape[parallel.RAYS] > 1:
    found.append(f"           {mesh.shape[parallel.RAYS]} devices each share the rays of the same pictures")
  return found


def as_json(columns: Sequence[Column], remarks: Sequence[str]) -> str:
  """The plan as JSON values: bytes, seconds, operations (over all devices)."""
  here = columns[0].run
  stages = []
  for i, plan in enumerate(here.stages):
    stages.append(
      {
        **dataclasses.asdict(plan.stage),
        "start": plan.start,
        "steps": plan.steps,
        "rows_per_device": plan.rows,
        "devices": [_numbers(column, i) for column in columns],
      }
    )
  return json.dumps(
    {
      "method": here.config["method"],
      "devices": here.mesh.size,
      "parameters": here.parameters,
      "state_bytes": here.state,
      "stages": stages,
      "totals": [
        {"device": c.device.name, "seconds": c.total, "memory_bytes": c.device.memory, "fits": c.fits} for c in columns
      ],
      "remarks": list(remarks),
    },
    indent=2,
  )


def _numbers(column: Column, i: int) -> dict[str, Any]:
  plan = column.run.stages[i]
  return {
    "device": column.device.name,
    "flops": plan.cost.total,
    "bytes": plan.memory,
    "seconds": column.seconds[i],
    "measured": column.measured,
  }


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Rows of equal length as lines with aligned columns."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def short_time(seconds: float) -> str:
  """A human-readable time of a step: "0.4 ms", "31 ms", "1.4 s"."""
  if seconds >= 99.5:
    return duration(seconds)
  return f"{seconds:.2g} s" if seconds >= 0.0995 else f"{1000 * seconds:.2g} ms"
