"""Settings and records of the staged engine: the table of stages, the optimiser, and the state of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from shapegan_jax.errors import UserError
from shapegan_jax.schedules import Stage, Stages, ramp
from shapegan_jax.types import Array, PyTree, record

T = TypeVar("T")

TRAINED_NETWORKS = {
  "prior": ("depth",),
  "albedo": ("albedo",),
  "pose_warmup": ("view", "light"),
  "encoder": ("offset",),
  "projection": (),
  "joint": ("depth", "albedo", "view", "light"),
}
"""The networks that each kind of stage trains."""

RANDOM_STREAMS = {"pose_warmup": "reading", "projection": "collect"}
"""Stages whose random stream has another name: the one with which the shipped models were trained, so that those runs
can be reproduced bit for bit. The names "subjects" and "census" elsewhere have the same origin."""


@dataclasses.dataclass(frozen=True)
class StagedStage(Stage):
  """A stage: what it does (`mode`), and whether the mirrored shape must reconstruct the images as well (`flip`)."""

  mode: str = ""
  flip: bool = False

  @property
  def random_stream(self) -> str:
    """The name of the stage's random stream."""
    return RANDOM_STREAMS.get(self.mode, self.mode)


@dataclasses.dataclass(frozen=True)
class StageTable:
  """The length of each stage in steps, for the first round and for every later one.

  Args:
    resolution: of the images.
    prior: steps before the first round, in which the depth network is fitted to the prior shape.
    albedo, encoder, joint: (first round, later rounds) each; steps 1, 2 and 3 of GAN2Shape.
    pose_warmup: (first round, later rounds) of a stage of ours before step 2, in which the view and light networks are
      trained on pseudo samples.
    flip_albedo, flip_joint: one entry per round; their length is the number of rounds.
    images_per_step: input images per step (with shared weights; a divisor of their number).
    samples: pseudo or projected samples per image and step.
    pool: projected samples stored per image, a multiple of `samples`.
  """

  resolution: int = 64
  prior: int = 1000
  albedo: tuple[int, int] = (700, 200)
  pose_warmup: tuple[int, int] = (0, 0)
  encoder: tuple[int, int] = (700, 500)
  joint: tuple[int, int] = (600, 400)
  flip_albedo: tuple[bool, ...] = (False, False, False, False)
  flip_joint: tuple[bool, ...] = (False, False, False, False)
  images_per_step: int = 1
  samples: int = 8
  pool: int = 800

  def __post_init__(self):
    if len(self.flip_albedo) != len(self.flip_joint) or not self.flip_joint:
      raise UserError("config.stages: flip_albedo and flip_joint need one entry per round, and at least one round")
    if self.pool % self.samples:
      raise UserError(f"config.stages.pool: {self.pool} is not a multiple of stages.samples, {self.samples}")

  @property
  def rounds(self) -> int:
    """How often steps 1, 2 and 3 are repeated."""
    return len(self.flip_joint)

  def expand(self, images: int = 1) -> Stages[StagedStage]:
    """((start, stage), ...) of a run on that many images with shared weights; stages of length 0 are left out.

    Raises:
      UserError: `images_per_step` does not divide the number of images.
    """
    per_step = self.images_per_step
    if images % per_step:
      raise UserError(f"config.stages.images_per_step: {per_step} does not divide the number of images, {images}")
    projection = images * self.pool // (per_step * self.samples)
    lengths = [("prior", self.prior, False)]
    for i, flips in enumerate(zip(self.flip_albedo, self.flip_joint, strict=True)):
      later = min(i, 1)
      lengths += [("albedo", self.albedo[later], flips[0]), ("pose_warmup", self.pose_warmup[later], False)]
      lengths += [("encoder", self.encoder[later], False)]
      lengths += [("projection", projection, False), ("joint", self.joint[later], flips[1])]
    rows, start = [], 0
    for mode, length, flip in lengths:
      batch = per_step * (1 if mode in ("prior", "albedo") else self.samples)
      if length:
        rows.append((start, StagedStage(self.resolution, batch, mode, flip)))
        start += length
    return tuple(rows)

  @property
  def last_length(self) -> int:
    """Steps of the last stage."""
    return self.joint[min(self.rounds - 1, 1)]

  def total_steps(self, images: int = 1) -> int:
    """Steps of a whole run, the `num_steps` of its config."""
    return self.expand(images)[-1][0] + self.last_length


@dataclasses.dataclass(frozen=True)
class AdamConfig:
  """PyTorch's Adam: weight decay is added to the gradient, and is therefore divided by Adam's second moment too.

  Over the fraction `warmup` of each stage the learning rate rises from 0, and over the last fraction `cooldown` it
  falls to 0 (ours; both 0 as published). Each stage starts with zero moments, so Adam's first step moves every weight
  by the full learning rate.
  """

  learning_rate: float = 1e-4
  b1: float = 0.9
  b2: float = 0.999
  weight_decay: float = 5e-4
  warmup: float = 0.0
  cooldown: float = 0.0

  def rate(self, index: int, length: int) -> float:
    """The learning rate in step `index` of a stage of `length` steps."""
    factor = ramp(index + 1, 0, self.warmup * length)
    if self.cooldown:
      factor = min(factor, max(length - index, 0) / (self.cooldown * length))
    return self.learning_rate * factor

  @property
  def transformation(self) -> optax.GradientTransformation:
    """The optimiser without its learning rate."""
    return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.scale_by_adam(self.b1, self.b2))


def _checkpointed_as(**stored: str) -> Callable[[type[T]], type[T]]:
  """`types.record` whose fields `stored` keep the names that they had in checkpoints written before a renaming."""

  def decorate(cls: type[T]) -> type[T]:
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(cls))
    keys = tuple(jax.tree_util.GetAttrKey(stored.get(name, name)) for name in names)

    def flatten(self: T) -> tuple[list[tuple[Any, Any]], None]:
      return [(key, getattr(self, name)) for key, name in zip(keys, names, strict=True)], None

    def unflatten(_: None, children: tuple[Any, ...]) -> T:
      self = object.__new__(cls)  # leaves may be shapes or axes, which __init__ would refuse
      for name, child in zip(names, children, strict=True):
        object.__setattr__(self, name, child)
      return self

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls

  return decorate


@record
class InstanceImages:
  """The input images, whose shapes are to be reconstructed, with their GAN latents and object masks."""

  image: Array  # [n, s, s, 3] in [-1, 1]
  latent: Array  # [n, latent]
  mask: Array  # [n, s, s] in [0, 1]


@_checkpointed_as(instances="subjects", gan_image="rendition")
class Targets:
  """The input images and what is computed from them before the first step."""

  instances: InstanceImages
  gan_image: Array  # [n, s, s, 3] in [-1, 1]: the GAN's reconstruction G(w) of the images
  prior: Array  # [n, s, s]: the depth that the depth network starts from


@record
class ProjectedSamples:
  """Projected samples: the GAN's images of the instances in other views and lights, m for each of n instances."""

  image: Array  # [n, m, s, s, 3] uint8
  mask: Array  # [n, m, s, s] uint8
  views: Array  # [n, m, 6] of their pseudo samples, in the view network's units
  lights: Array  # [n, m, 4] of their pseudo samples: codes in the frame of `geometry.relief`

  @classmethod
  def pack(cls, image: Array, mask: Array, views: Array, lights: Array) -> ProjectedSamples:
    """From images in [-1, 1] and masks in [0, 1]."""
    return cls(*(jnp.round(255 * x).astype(jnp.uint8) for x in (image / 2 + 0.5, mask)), views, lights)

  def unpack(self) -> tuple[Array, Array]:
    """(images in [-1, 1], masks in [0, 1])."""
    return self.image.astype(jnp.float32) / 127.5 - 1, self.mask.astype(jnp.float32) / 255


@_checkpointed_as(estimates="memory")
class StagedState:
  """The state of a run. With instance-specific weights all of `params` and `opt` has a leading axis of instances."""

  step: Array  # [] int32, updates done
  params: dict[str, PyTree]  # by the names in `TRAINED_NETWORKS`
  opt: dict[str, PyTree]
  targets: Targets
  pool: ProjectedSamples
  estimates: PyTree  # what the method estimates during a run
  gan: PyTree  # the frozen generator, so that a checkpoint needs no other file


@record
class StepBatch:
  """The input of one step: k instances, projected samples of each, and what all of them share."""

  targets: Targets  # [k, ...]
  samples: ProjectedSamples  # [k, b, ...]
  estimates: PyTree
  gan: PyTree
