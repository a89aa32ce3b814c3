"""Settings of StyleGAN2's training: one dataclass per config section."""

from __future__ import annotations

import dataclasses

from shapegan_jax.sections import Count, Weight


@dataclasses.dataclass(frozen=True)
class Objectives:
  """`loss` is a name in `objectives.adversarial.LOSSES`; `r1` is R1's gamma and `path` the weight of the path length
  penalty, which are counted every `r1_every` and `path_every` steps (that many times each).

  The path length is taken of `batch / path_shrink` pictures; `path_decay` is the share of new lengths in its running
  mean. `mixing` is the share of pictures made of two latents.
  """

  loss: str = "logistic"
  r1: Weight = 10.0
  r1_every: Count = 16
  path: Weight = 2.0
  path_every: Count = 4
  path_shrink: Count = 2
  path_decay: Weight = 0.01
  mixing: Weight = 0.9


@dataclasses.dataclass(frozen=True)
class Optimizers:
  """Adam's decays, before the correction of `lazy_updates.lazy_adam`."""

  b1: Weight = 0.0
  b2: Weight = 0.99


@dataclasses.dataclass(frozen=True)
class Averages:
  """The generator's average forgets half in `half_life` pictures, early on in `ramp` times those seen so far (0: not).

  `style_decay` is that of the mean style, towards which truncation draws.
  """

  half_life: Count = 10_000
  ramp: Weight = 0.05
  style_decay: Weight = 0.995

  def decay(self, batch: int, seen: int) -> float:
    """Of one step."""
    pictures = min(self.half_life, self.ramp * seen) if self.ramp else self.half_life
    return 0.5 ** (batch / max(pictures, 1e-8))


@dataclasses.dataclass(frozen=True)
class ExportConfig:
  """Whether exported parameters hold the `discriminator`, which GAN2Shape compares features by."""

  discriminator: bool = True
