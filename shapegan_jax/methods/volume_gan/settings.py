"""Settings of the adversarial engine: one dataclass per config section, and the static stage they expand to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from shapegan_jax.errors import UserError
from shapegan_jax.objectives.adversarial import choose_loss
from shapegan_jax.schedules import Stage, Stages
from shapegan_jax.sections import Count, Natural, Schema, Weight


@dataclasses.dataclass(frozen=True)
class GanStage(Stage):
  """A stage of an adversarial method. `samples` is per ray and pass.

  `topk_group` is the number of fakes that top-k chooses from (0: the whole batch) and `gradient_scale` multiplies the
  generator's gradient before it is clipped: the authors choose within, and sum over, the parts of a split batch.
  The discriminator works on `micro_batches` one after the other, to save memory (`parallel.in_micro_batches`); this
  changes nothing else.
  """

  samples: int = 12
  topk_group: int = 0
  gradient_scale: float = 1.0
  fading: bool = False
  micro_batches: int = 1


@dataclasses.dataclass(frozen=True)
class RateTable:
  """Columns of equal length: stage i begins at step `start[i]`. Rates are per stage."""

  start: tuple[Natural, ...] = (0,)
  resolution: tuple[Count, ...] = (32,)
  batch_size: tuple[Count, ...] = (8,)
  generator_rate: tuple[Weight, ...] = (2e-5,)
  discriminator_rate: tuple[Weight, ...] = (2e-4,)

  def __post_init__(self):
    columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    lengths = {name: len(column) for name, column in columns.items() if isinstance(column, tuple)}
    if len(set(lengths.values())) != 1:
      shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
      raise UserError(f"config.stages: columns must be equally long, one entry for each stage; found {shown}")
    if not self.start or self.start[0] != 0 or list(self.start) != sorted(set(self.start)):
      raise UserError(f"config.stages.start: {self.start} must begin at 0 and ascend")

  def expand(self) -> Stages[Stage]:
    """((start, stage), ...): a stage for each row."""
    rows = zip(self.start, self.resolution, self.batch_size, strict=True)
    return tuple((start, Stage(resolution, batch_size)) for start, resolution, batch_size in rows)


@dataclasses.dataclass(frozen=True)
class StageTable(RateTable):
  """Each new resolution fades in over `fade_steps` steps, the first one too (as published) if `fade_first`.

  The discriminator takes every batch as `micro_batches`, one after the other: for batches that memory does not hold.
  """

  samples: tuple[Count, ...] = (12,)
  topk_group: tuple[Natural, ...] = (0,)
  gradient_scale: tuple[Weight, ...] = (1.0,)
  fade_steps: Natural = 10_000
  fade_first: bool = True
  micro_batches: Count = 1

  def __post_init__(self):
    super().__post_init__()
    if odd := [size for size in self.batch_size if size % self.micro_batches]:
      raise UserError(f"config.stages.micro_batches: {self.micro_batches} does not divide a batch of {odd[0]}")
    for size, group in zip(self.batch_size, self.topk_group, strict=True):
      if group and size % group:
        raise UserError(f"config.stages.topk_group: {group} does not divide a batch of {size}")

  def expand(self) -> Stages[GanStage]:
    """((start, stage), ...): a stage that fades is two, with and without the discriminator's fade-in path."""
    rows: list[tuple[int, GanStage]] = []
    for i, start in enumerate(self.start):
      end = self.start[i + 1] if i + 1 < len(self.start) else None
      stage = GanStage(
        self.resolution[i],
        self.batch_size[i],
        self.samples[i],
        self.topk_group[i],
        self.gradient_scale[i],
        micro_batches=self.micro_batches,
      )
      faded = self.fade_end(start)
      if faded > start:
        rows.append((start, dataclasses.replace(stage, fading=True)))
        if end is None or faded < end:
          rows.append((faded, stage))
      else:
        rows.append((start, stage))
    return tuple(rows)

  def fade_start(self, step: int) -> int:
    """The last step, up to `step`, at which the resolution changed."""
    begun = [i for i, start in enumerate(self.start) if start <= step]
    changes = [i for i in begun if i == 0 or self.resolution[i] != self.resolution[i - 1]]
    return self.start[changes[-1]]

  def fade_end(self, step: int) -> int:
    """The step at which the resolution of `step` has faded in."""
    start = self.fade_start(step)
    return start + self.fade_steps if start > 0 or self.fade_first else start


@dataclasses.dataclass(frozen=True)
class Objectives:
  """`loss`, a name in `objectives.adversarial.LOSSES`, and weights. `r2` is the weight of R1's penalty on fakes.

  top-k keeps the share max(0.99^(step / topk_interval), topk_share) of the fakes.

  `r1` falls to `r1_final` between the steps `r1_ramp`, if that is not (0, 0): a strong penalty while a new generator is
  easily told from pictures, a weak one once it is not.
  """

  loss: str = "logistic"
  r1: Weight = 1.0
  r1_final: Weight = 0.0
  r1_ramp: tuple[Natural, Natural] = (0, 0)
  r2: Weight = 0.0
  pose: Weight = 15.0
  latent: Weight = 0.0
  topk_interval: Count = 2000
  topk_share: Weight = 0.6
  shared_fakes: bool = False

  def __post_init__(self):
    if choose_loss(self.loss).pairs and self.topk_share < 1:
      raise UserError(
        f"config.objectives.topk_share: {self.topk_share:g}, but {self.loss} pairs fakes with real pictures; set 1"
      )


@dataclasses.dataclass(frozen=True)
class Optimizers:
  """`kind` "adam" (pi-GAN) or "rmsprop" (GRAF: no momentum, no bias correction, `alpha` the decay of the squares).

  `clip` bounds the global norm of a network's gradient; 0 does not.
  """

  kind: Literal["adam", "rmsprop"] = "adam"
  b1: Weight = 0.0
  b2: Weight = 0.9
  alpha: Weight = 0.99
  clip: Weight = 1.0
  discriminator_clip: Weight = 1.0


@dataclasses.dataclass(frozen=True)
class Averages:
  """Decays of the two averages of the generator, with `warmup` min(decay, (1 + n) / (10 + n)) after n updates."""

  decay: Weight = 0.999
  slow_decay: Weight = 0.9999
  warmup: bool = True


ENGINE_SECTIONS: Schema = {
  "stages": StageTable,
  "objectives": Objectives,
  "optimizers": Optimizers,
  "averages": Averages,
}


def engine_parts(read: Mapping[str, Any]) -> dict[str, Any]:
  """The engine's fields but for the discriminator, from `ENGINE_SECTIONS` as their dataclasses."""
  table: StageTable = read["stages"]
  return dict(
    table=table,
    stages=table.expand(),
    objectives=read["objectives"],
    optimizers=read["optimizers"],
    averages=read["averages"],
    loss=choose_loss(read["objectives"].loss),
  )
