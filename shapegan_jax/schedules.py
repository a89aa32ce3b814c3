"""Two kinds of schedule, never mixed: a `Stage` is static (shapes, program variants; a new one compiles a new step), an
anneal is a number that changes with the step and is traced."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeVar


@dataclasses.dataclass(frozen=True)
class Stage:
  """What the data pipeline must know of a stage. `batch_size` is global, over all devices and processes."""

  resolution: int
  batch_size: int


StageT = TypeVar("StageT", bound=Stage)
Stages = tuple[tuple[int, StageT], ...]
"""((start_step, stage), ...), sorted, the first at step 0."""


def stage_at(stages: Stages[StageT], step: int) -> StageT:
  """The stage that step `step` (from 0) belongs to."""
  return stages[bisect_right([start for start, _ in stages], step) - 1][1]


def stage_start(stages: Stages[StageT], step: int) -> int:
  """The step at which the stage of `step` began."""
  return stages[bisect_right([start for start, _ in stages], step) - 1][0]


def piecewise(starts: Sequence[int], values: Sequence[float], step: int) -> float:
  """values[i] for starts[i] <= step < starts[i + 1]."""
  return values[bisect_right(list(starts), step) - 1]


def ramp(step: int, start: int, end: int | float) -> float:
  """0 before `start`, 1 after `end`, linear between."""
  return min(1.0, max(0.0, (step - start) / max(end - start, 1)))


def exponential_approach(step: int, *, start: int, rate: float, initial: float, final: float) -> float:
  """(initial - final) exp(-rate (step - start)) + final; `initial` before `start`."""
  return (initial - final) * math.exp(-rate * max(step - start, 0)) + final


def steps_of_stages(stages: Stages[StageT], first_step: int, end_step: int) -> list[tuple[int, int, StageT]]:
  """(first step, number of steps, stage) of each stage that is in force in [first_step, end_step), within it."""
  ends = [start for start, _ in stages[1:]] + [end_step]
  spans = (
    (max(start, first_step), min(end, end_step), stage) for (start, stage), end in zip(stages, ends, strict=True)
  )
  return [(begin, end - begin, stage) for begin, end, stage in spans if begin < end]


def examples_before(stages: Stages[StageT], step: int) -> int:
  """How many examples, over all processes, the steps 0 ... step-1 see."""
  return sum(steps * stage.batch_size for _, steps, stage in steps_of_stages(stages, 0, step))


def stages_between(stages: Stages[StageT], first_step: int, end_step: int) -> list[StageT]:
  """The stages in force at some step in [first_step, end_step)."""
  return [stage for _, _, stage in steps_of_stages(stages, first_step, end_step)]


def expected_seconds(stages: Stages[StageT], step: int, num_steps: int, seconds: float) -> float:
  """Time from `step` to `num_steps` if the current step takes `seconds` and others scale with pixels times samples."""

  def cost(stage: StageT) -> int:
    return stage.batch_size * stage.resolution**2 * getattr(stage, "samples", 1)

  work = sum(steps * cost(stage) for _, steps, stage in steps_of_stages(stages, step, num_steps))
  return seconds * work / cost(stage_at(stages, step))
