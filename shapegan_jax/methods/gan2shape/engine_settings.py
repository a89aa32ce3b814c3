"""Settings and records of the staged engine: the table of stages, the optimiser, and what a run carries along."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import optax

from shapegan_jax.errors import UserError
from shapegan_jax.schedules import Stage, Stages, ramp
from shapegan_jax.types import Array, PyTree, record

TRAINED = {
  "prior": ("depth",),
  "albedo": ("albedo",),
  "reading": ("view", "light"),
  "encoder": ("offset",),
  "collect": (),
  "joint": ("depth", "albedo", "view", "light"),
}
"""The networks that each kind of stage trains."""


@dataclasses.dataclass(frozen=True)
class StagedStage(Stage):
  """A stage: what it does (`mode`), and whether the mirrored relief has to explain the pictures as well (`flip`)."""

  mode: str = ""
  flip: bool = False


@dataclasses.dataclass(frozen=True)
class RoundTable:
  """How long each stage is, in steps: of the first round and of every later one.

  Args:
    prior: steps before the first round, in which the depth network learns the prior shape.
    albedo, encoder, joint: (first round, later rounds) each; steps 1, 2 and 3 of GAN2Shape.
    reading: (first round, later rounds) of a stage of ours before step 2, in which views and lights are read off
      drawings.
    flip_albedo, flip_joint: one for each round, of which there are as many.
    images_per_step: subjects that a step takes (joint mode; a divisor of their number).
    samples: pseudo or projected samples of each subject and step.
    pool: projected samples kept of each subject, a multiple of `samples`.
    resolution: of the pictures.
  """

  resolution: int = 64
  prior: int = 1000
  albedo: tuple[int, int] = (700, 200)
  reading: tuple[int, int] = (0, 0)
  encoder: tuple[int, int] = (700, 500)
  joint: tuple[int, int] = (600, 400)
  flip_albedo: tuple[bool, ...] = (False, False, False, False)
  flip_joint: tuple[bool, ...] = (False, False, False, False)
  images_per_step: int = 1
  samples: int = 8
  pool: int = 800

  def __post_init__(self):
    if len(self.flip_albedo) != len(self.flip_joint) or not self.flip_joint:
      raise UserError("config.stages: flip_albedo and flip_joint need one entry for each round, and one round at least")
    if self.pool % self.samples:
      raise UserError(f"config.stages.pool: {self.pool} is not a multiple of stages.samples, {self.samples}")

  @property
  def rounds(self) -> int:
    """How often steps 1, 2 and 3 are done."""
    return len(self.flip_joint)

  def expand(self, subjects: int = 1) -> Stages[StagedStage]:
    """((start, stage), ...) of a run on `subjects` that share weights; stages of no length are left out.

    Raises:
      UserError: the subjects cannot be taken `images_per_step` at a time.
    """
    each = self.images_per_step
    if subjects % each:
      raise UserError(f"config.stages.images_per_step: {each} does not divide the number of subjects, {subjects}")
    collect = subjects * self.pool // (each * self.samples)
    lengths = [("prior", self.prior, False)]
    for i, flips in enumerate(zip(self.flip_albedo, self.flip_joint, strict=True)):
      later = min(i, 1)
      lengths += [("albedo", self.albedo[later], flips[0]), ("reading", self.reading[later], False)]
      lengths += [("encoder", self.encoder[later], False)]
      lengths += [("collect", collect, False), ("joint", self.joint[later], flips[1])]
    rows, start = [], 0
    for mode, length, flip in lengths:
      batch = each * (1 if mode in ("prior", "albedo") else self.samples)
      if length:
        rows.append((start, StagedStage(self.resolution, batch, mode, flip)))
        start += length
    return tuple(rows)

  @property
  def last(self) -> int:
    """Steps of the last stage."""
    return self.joint[min(self.rounds - 1, 1)]

  def length(self, subjects: int = 1) -> int:
    """Steps of a whole run, as `num_steps` of its config."""
    return self.expand(subjects)[-1][0] + self.last


@dataclasses.dataclass(frozen=True)
class AdamConfig:
  """PyTorch's Adam, whose weight decay is added to the gradient (and so is divided by its own moments).

  Over the first part `rise` of each stage the rate rises from 0, and over the last part `fall` it falls to 0 (ours;
  both 0 as published). A stage begins without moments, and Adam's first step then moves every weight by the whole rate.
  """

  learning_rate: float = 1e-4
  b1: float = 0.9
  b2: float = 0.999
  weight_decay: float = 5e-4
  rise: float = 0.0
  fall: float = 0.0

  def rate(self, index: int, length: int) -> float:
    """In step `index` of a stage of `length` steps."""
    part = ramp(index + 1, 0, self.rise * length)
    if self.fall:
      part = min(part, max(length - index, 0) / (self.fall * length))
    return self.learning_rate * part

  @property
  def directions(self) -> optax.GradientTransformation:
    """Without the learning rate."""
    return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.scale_by_adam(self.b1, self.b2))


@record
class Subjects:
  """Pictures whose shapes are wanted, with the generator's latents that show them and masks of the objects."""

  image: Array  # [n, s, s, 3] in [-1, 1]
  latent: Array  # [n, latent]
  mask: Array  # [n, s, s] in [0, 1]


@record
class Targets:
  """Subjects and what follows from them before the first step."""

  subjects: Subjects
  rendition: Array  # [n, s, s, 3] in [-1, 1]: what the generator shows for the latents
  prior: Array  # [n, s, s]: the depth that the depth network starts from


@record
class Samples:
  """Pictures of the subjects in other views and lights, as the generator drew them: [n, m] of them."""

  image: Array  # [n, m, s, s, 3] uint8
  mask: Array  # [n, m, s, s] uint8
  views: Array  # [n, m, 6] asked for, in a view network's units
  lights: Array  # [n, m, 4] asked for, codes in the frame of `geometry.relief`

  @classmethod
  def of(cls, image: Array, mask: Array, views: Array, lights: Array) -> Samples:
    """From pictures in [-1, 1] and masks in [0, 1]."""
    return cls(*(jnp.round(255 * x).astype(jnp.uint8) for x in (image / 2 + 0.5, mask)), views, lights)

  def unpacked(self) -> tuple[Array, Array]:
    """(pictures in [-1, 1], masks in [0, 1])."""
    return self.image.astype(jnp.float32) / 127.5 - 1, self.mask.astype(jnp.float32) / 255


@record
class StagedState:
  """Everything a run carries from step to step. In instance mode all of `params` and `opt` has an axis of subjects."""

  step: Array  # [] int32, updates done
  params: dict[str, PyTree]  # by the names in `TRAINED`
  opt: dict[str, PyTree]
  targets: Targets
  pool: Samples
  memory: PyTree  # what the method itself remembers from step to step
  gan: PyTree  # the frozen generator: a checkpoint needs no other file


@record
class Work:
  """What one step is about: the k subjects it takes, samples of each from the pool, and what all have in common."""

  targets: Targets  # [k, ...]
  samples: Samples  # [k, b, ...]
  memory: PyTree
  gan: PyTree
