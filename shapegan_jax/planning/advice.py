"""What makes a run fit that needs more memory than a device has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from shapegan_jax import parallel
from shapegan_jax.methods.catalog import build
from shapegan_jax.planning.stages import RunPlan, StagePlan, plan_stage, with_points

FEWEST_POINTS = 1024
"""Smaller chunks are not proposed."""

MOST_DEVICES = 256
"""More are not proposed."""

Changes = Iterator[tuple[str, Mapping[str, Any]]]
"""(description of a change, the changed config)."""


def suggestion(run: RunPlan, limit: float | int, points: int) -> str:
  """What makes the largest stage fit into `limit` bytes per device.

  The first of `gentle` that does; else more devices, or a smaller batch. All but the number of devices are checked by
  compiling the largest stage again. `points` is the number in flight if the config leaves it to the device.
  """
  worst = max(run.stages, key=lambda plan: plan.memory)

  def first_that_fits(changes: Changes) -> str | None:
    for words, config in changes:
      if plan_stage(build(config), run.mesh, worst.start, quick=True).memory <= limit:
        return words
    return None

  if found := first_that_fits(gentle(run, points)):
    return found
  found = [more_devices(run, limit), first_that_fits(smaller(run, limit))]
  return "; or ".join(filter(None, found)) or "nothing that keeps the networks and the resolution"


def gentle(run: RunPlan, points: int) -> Changes:
  """Changes that affect the result only by rounding: smaller chunks, and micro-batches of the discriminator."""
  config, table = run.config, run.config["stages"]
  if "chunk_points" in config.get("rendering", {}):
    points = config["rendering"]["chunk_points"] or points
    while (points := points // 4) >= FEWEST_POINTS:
      yield f"--config.rendering.chunk_points={points}", with_points(config, points)
  if parts := getattr(run.stages[0].stage, "micro_batches", 0):
    common = math.gcd(*table["batch_size"])
    for more in (n for n in range(parts + 1, common + 1) if common % n == 0):
      yield f"--config.stages.micro_batches={more}", _with_stages(config, micro_batches=more)


def more_devices(run: RunPlan, limit: float | int) -> str | None:
  """The smallest number of devices that should suffice, all of them used; None if there is none."""
  stages = [plan.stage for plan in run.stages]
  rays = [stage.resolution**2 for stage in stages if hasattr(stage, "samples")]
  for devices in range(run.mesh.size + 1, MOST_DEVICES + 1):
    shape = parallel.layout(1, devices, [stage.batch_size for stage in stages], rays)
    at_work = shape is not None and math.prod(shape) == devices
    if at_work and all(_needed(run, plan, run.mesh.size / devices) <= limit for plan in run.stages):
      return f"{devices} devices instead of {run.mesh.size} (an estimate: --devices={devices} counts)"
  return None


def smaller(run: RunPlan, limit: float | int) -> Changes:
  """Changes that make it a different training: smaller batches, or fewer samples for the staged methods."""
  config, table = run.config, run.config["stages"]
  if "batch_size" in table:
    batches = tuple(_batch_that_fits(run, row, limit) for row in range(len(table["batch_size"])))
    if all(batches):
      yield f"--config.stages.batch_size='{batches}', another training", _with_stages(config, batch_size=batches)
    return
  samples = table.get("samples", 1)
  while samples % 2 == 0:
    samples //= 2
    yield f"--config.stages.samples={samples}, another training", _with_stages(config, samples=samples)


def _with_stages(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
  return {**config, "stages": {**config["stages"], **changes}}


def _needed(run: RunPlan, plan: StagePlan, share: float) -> float:
  """Estimated memory of a stage if every device has this share of its current rows."""
  return run.state + share * (plan.memory - run.state)


def _batch_that_fits(run: RunPlan, row: int, limit: float | int) -> int | None:
  """The largest batch size that should fit, for a row of the table of stages; None if there is none."""
  table = run.config["stages"]
  batch, starts = table["batch_size"][row], (*table["start"], math.inf)
  plans = [plan for plan in run.stages if starts[row] <= plan.start < starts[row + 1]]
  # Groups must stay whole: of top-k, of the minibatch standard deviation, of a micro-batch, of a device.
  topk = table["topk_group"][row] if "topk_group" in table else 0
  together = (topk or 1, run.config.get("discriminator", {}).get("group", 1), table.get("micro_batches", 1))
  unit = math.lcm(run.mesh.shape[parallel.DATA], *together)
  sizes = [batch, *(size for size in range(batch - 1, 0, -1) if size % unit == 0)]
  return next((size for size in sizes if all(_needed(run, p, size / batch) <= limit for p in plans)), None)
