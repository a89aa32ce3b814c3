"""Settings of StyleGAN2's training: one dataclass per config section."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Objectives:
  """R1's gamma, the weight of the path length penalty, and every how many steps each is counted (so many times).

  The path length is taken of `batch / path_shrink` pictures; `path_decay` is the share of new lengths in its running
  mean. `mixing` is the share of pictures made of two latents.
  """

  r1: float = 10.0
  r1_every: int = 16
  path: float = 2.0
  path_every: int = 4
  path_shrink: int = 2
  path_decay: float = 0.01
  mixing: float = 0.9


@dataclasses.dataclass(frozen=True)
class Optimizers:
  """Adam's decays, before the correction of `lazy_updates.lazy_adam`."""

  b1: float = 0.0
  b2: float = 0.99


@dataclasses.dataclass(frozen=True)
class Averages:
  """The generator's average forgets half in `half_life` pictures, early on in `ramp` times those seen so far (0: not).

  `style_decay` is that of the mean style, towards which truncation draws.
  """

  half_life: int = 10_000
  ramp: float = 0.05
  style_decay: float = 0.995

  def decay(self, batch: int, seen: int) -> float:
    """Of one step."""
    pictures = min(self.half_life, self.ramp * seen) if self.ramp else self.half_life
    return 0.5 ** (batch / max(pictures, 1e-8))
