"""Settings of the adversarial engine: one dataclass per config section, and the static stage they expand to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from shapegan_jax.errors import UserError
from shapegan_jax.schedules import Stage, Stages
from shapegan_jax.sections import section


@dataclasses.dataclass(frozen=True)
class GanStage(Stage):
  """A stage of an adversarial method. `samples` is per ray and pass.

  `topk_group` is the number of fakes that top-k chooses from (0: the whole batch) and `gradient_scale` multiplies the
  generator's gradient before it is clipped: the authors choose within, and sum over, the parts of a split batch.
  `parts` splits the discriminator's work to save memory (`parallel.in_parts`) and changes nothing else.
  """

  samples: int = 12
  topk_group: int = 0
  gradient_scale: float = 1.0
  fading: bool = False
  parts: int = 1


@dataclasses.dataclass(frozen=True)
class RateTable:
  """Columns of equal length: stage i begins at step `start[i]`. Rates are per stage."""

  start: tuple[int, ...] = (0,)
  resolution: tuple[int, ...] = (32,)
  batch_size: tuple[int, ...] = (8,)
  generator_rate: tuple[float, ...] = (2e-5,)
  discriminator_rate: tuple[float, ...] = (2e-4,)

  def __post_init__(self):
    lengths = {
      f.name: len(getattr(self, f.name)) for f in dataclasses.fields(self) if f.type != "int" and f.type != "bool"
    }
    if len(set(lengths.values())) != 1 or self.start[0] != 0 or list(self.start) != sorted(set(self.start)):
      raise UserError(f"config.stages: columns must be equally long, start at 0 and ascend; found lengths {lengths}")

  def expand(self) -> Stages[Stage]:
    """((start, stage), ...): a stage for each row."""
    rows = zip(self.start, self.resolution, self.batch_size, strict=True)
    return tuple((start, Stage(resolution, batch_size)) for start, resolution, batch_size in rows)


@dataclasses.dataclass(frozen=True)
class StageTable(RateTable):
  """Each new resolution fades in over `fade_steps` steps, the first one too (as published) if `fade_first`.

  The discriminator takes every batch in `parts` parts, one after the other: for batches that memory does not hold.
  """

  samples: tuple[int, ...] = (12,)
  topk_group: tuple[int, ...] = (0,)
  gradient_scale: tuple[float, ...] = (1.0,)
  fade_steps: int = 10_000
  fade_first: bool = True
  parts: int = 1

  def __post_init__(self):
    super().__post_init__()
    if odd := [size for size in self.batch_size if self.parts < 1 or size % self.parts]:
      raise UserError(f"config.stages.parts: {self.parts} does not divide a batch of {odd[0]}")

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
        parts=self.parts,
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
  """Weights of the losses. top-k keeps the share max(0.99^(step / topk_interval), topk_share) of the fakes.

  `r1` falls to `r1_final` between the steps `r1_ramp`, if that is not (0, 0): a strong penalty while a new generator is
  easily told from pictures, a weak one once it is not.
  """

  r1: float = 1.0
  r1_final: float = 0.0
  r1_ramp: tuple[int, int] = (0, 0)
  pose: float = 15.0
  latent: float = 0.0
  topk_interval: int = 2000
  topk_share: float = 0.6
  shared_fakes: bool = False


@dataclasses.dataclass(frozen=True)
class Optimizers:
  """`kind` "adam" (pi-GAN) or "rmsprop" (GRAF: no momentum, no bias correction, `alpha` the decay of the squares).

  `clip` bounds the global norm of a network's gradient; 0 does not.
  """

  kind: str = "adam"
  b1: float = 0.0
  b2: float = 0.9
  alpha: float = 0.99
  clip: float = 1.0
  discriminator_clip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Averages:
  """Decays of the two averages of the generator, with `warmup` min(decay, (1 + n) / (10 + n)) after n updates."""

  decay: float = 0.999
  slow_decay: float = 0.9999
  warmup: bool = True


def engine_parts(config: Mapping[str, Any]) -> dict[str, Any]:
  """The engine's fields but for the discriminator: sections `stages`, `objectives`, `optimizers` and `averages`."""
  table = section(StageTable, config.get("stages"), "stages")
  return dict(
    table=table,
    stages=table.expand(),
    objectives=section(Objectives, config.get("objectives"), "objectives"),
    optimizers=section(Optimizers, config.get("optimizers"), "optimizers"),
    averages=section(Averages, config.get("averages"), "averages"),
  )
