"""Engine of the adversarial methods: a generator of pictures against a discriminator.

One update is the authors' order (pi-GAN, GOF and ShadeGAN share it): the discriminator learns on fresh fakes, the
generator on other fresh fakes against the new discriminator, then the averages follow. With `shared_fakes` both learn
from one set of fakes, which spares a rendering (a quarter of the generator's arithmetic) and is our own option.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from shapegan_jax.errors import UserError
from shapegan_jax.objectives import adversarial as losses
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stage, Stages, piecewise, ramp, stage_at
from shapegan_jax.state import ema_update
from shapegan_jax.types import Array, CriticOutput, Key, PyTree, record


@record
class GanState:
  """Everything a run carries from step to step."""

  step: Array  # [] int32, updates done
  gen_params: PyTree
  disc_params: PyTree
  gen_opt: PyTree
  disc_opt: PyTree
  ema_params: PyTree  # decay .999 as published: what is evaluated
  ema_slow_params: PyTree  # decay .9999


@record
class Fakes:
  """A batch the generator made, with what it was asked for."""

  image: Array  # [b, h, w, 3] in [-1, 1]
  latents: Array  # [b, latent]
  pose: Array  # [b, 2] pitch, yaw
  aux: PyTree = None


@dataclasses.dataclass(frozen=True)
class GanStage(Stage):
  """A stage of an adversarial method. `samples` is per ray and pass.

  `topk_group` is the number of fakes that top-k chooses from (0: the whole batch) and `gradient_scale` multiplies the
  generator's gradient before it is clipped: the authors choose within, and sum over, the parts of a split batch.
  """

  samples: int = 12
  topk_group: int = 0
  gradient_scale: float = 1.0
  fading: bool = False


@dataclasses.dataclass(frozen=True)
class StageTable:
  """Columns of equal length: stage i begins at step `start[i]`. Rates are per stage.

  Each new resolution fades in over `fade_steps` steps, the first one too (as published) if `fade_first`.
  """

  start: tuple[int, ...] = (0,)
  resolution: tuple[int, ...] = (32,)
  batch_size: tuple[int, ...] = (8,)
  samples: tuple[int, ...] = (12,)
  generator_rate: tuple[float, ...] = (2e-5,)
  discriminator_rate: tuple[float, ...] = (2e-4,)
  topk_group: tuple[int, ...] = (0,)
  gradient_scale: tuple[float, ...] = (1.0,)
  fade_steps: int = 10_000
  fade_first: bool = True

  def __post_init__(self):
    lengths = {
      f.name: len(getattr(self, f.name)) for f in dataclasses.fields(self) if f.type != "int" and f.type != "bool"
    }
    if len(set(lengths.values())) != 1 or self.start[0] != 0 or list(self.start) != sorted(set(self.start)):
      raise UserError(f"config.stages: columns must be equally long, start at 0 and ascend; found lengths {lengths}")

  def expand(self) -> Stages[GanStage]:
    """((start, stage), ...): a stage that fades is two, with and without the discriminator's fade-in path."""
    rows: list[tuple[int, GanStage]] = []
    for i, start in enumerate(self.start):
      end = self.start[i + 1] if i + 1 < len(self.start) else None
      stage = GanStage(
        self.resolution[i], self.batch_size[i], self.samples[i], self.topk_group[i], self.gradient_scale[i]
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
  """Weights of the losses. top-k keeps the share max(topk_decay^(step / topk_interval), topk_share) of the fakes."""

  r1: float = 1.0
  pose: float = 15.0
  latent: float = 0.0
  topk_interval: int = 2000
  topk_share: float = 0.6
  shared_fakes: bool = False


@dataclasses.dataclass(frozen=True)
class Optimizers:
  """Adam as pi-GAN sets it; `clip` bounds the global norm of a network's gradient."""

  b1: float = 0.0
  b2: float = 0.9
  clip: float = 1.0
  discriminator_clip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Averages:
  """Decays of the two averages of the generator, warmed up as min(decay, (1 + n) / (10 + n))."""

  decay: float = 0.999
  slow_decay: float = 0.9999


@dataclasses.dataclass(frozen=True)
class AdversarialMethod(abc.ABC):
  """The engine. A method says how a generator is made (`init_generator`) and how it makes a batch (`generate`)."""

  critic: nn.Module
  table: StageTable
  stages: Stages[GanStage]
  objectives: Objectives
  optimizers: Optimizers
  averages: Averages

  @abc.abstractmethod
  def init_generator(self, key: Key) -> PyTree:
    """Fresh generator parameters."""

  @abc.abstractmethod
  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Fakes:
    """One batch of `stage.batch_size` pictures with prior latents, poses and lights."""

  def extra_losses(self, gen_params: PyTree, fakes: Fakes) -> dict[str, Array]:
    """The method's own terms of the generator's loss, already weighted."""
    del gen_params, fakes
    return {}

  def plan(self, step: int) -> tuple[GanStage, dict[str, float]]:
    """Stage of the step; anneals `fade`, `topk`, and the two learning rates."""
    table, goals = self.table, self.objectives
    begun, faded = table.fade_start(step), table.fade_end(step)
    anneals = {
      "fade": ramp(step, begun, faded) if faded > begun else 1.0,
      "topk": max(0.99 ** (step / goals.topk_interval), goals.topk_share),
      "generator_rate": piecewise(table.start, table.generator_rate, step),
      "discriminator_rate": piecewise(table.start, table.discriminator_rate, step),
    }
    return stage_at(self.stages, step), anneals

  def init(self, key: Key, *, dependencies: Mapping[str, Any] | None = None) -> GanState:
    """A fresh state; both averages start as the generator itself."""
    del dependencies
    gen_key, disc_key = jax.random.split(key)
    gen_params = self.init_generator(gen_key)
    disc_params = self.critic.init_params(disc_key)["params"]
    gen_tx, disc_tx = self._optimizers()
    return GanState(
      step=jnp.zeros((), jnp.int32),
      gen_params=gen_params,
      disc_params=disc_params,
      gen_opt=gen_tx.init(gen_params),
      disc_opt=disc_tx.init(disc_params),
      # Copies: a donated buffer must not appear twice in the state.
      ema_params=jax.tree.map(jnp.copy, gen_params),
      ema_slow_params=jax.tree.map(jnp.copy, gen_params),
    )

  def params_of(self, state: GanState, *, ema: bool = True) -> PyTree:
    """The average with decay .999, which the authors evaluate, or the raw generator."""
    return state.ema_params if ema else state.gen_params

  def update(
    self, state: GanState, batch: dict[str, Array], key: Key, anneals: dict[str, Array], *, stage: GanStage
  ) -> tuple[GanState, dict[str, Array]]:
    """Discriminator, generator, averages: one step."""
    gen_key = stream(key, "generator", state.step)
    if self.objectives.shared_fakes:
      gen_params, gen_opt, fakes, gen_metrics = self._generator_step(state, state.disc_params, gen_key, anneals, stage)
      disc_params, disc_opt, disc_metrics = self._discriminator_step(state, batch["image"], fakes, anneals, stage)
    else:
      fakes = self.generate(state.gen_params, stream(key, "discriminator", state.step), anneals, stage=stage)
      disc_params, disc_opt, disc_metrics = self._discriminator_step(state, batch["image"], fakes, anneals, stage)
      gen_params, gen_opt, _, gen_metrics = self._generator_step(state, disc_params, gen_key, anneals, stage)
    step = state.step + 1
    new_state = GanState(
      step=step,
      gen_params=gen_params,
      disc_params=disc_params,
      gen_opt=gen_opt,
      disc_opt=disc_opt,
      ema_params=ema_update(state.ema_params, gen_params, self.averages.decay, step),
      ema_slow_params=ema_update(state.ema_slow_params, gen_params, self.averages.slow_decay, step),
    )
    return new_state, {**disc_metrics, **gen_metrics}

  def _optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    def adam(clip: float) -> optax.GradientTransformation:
      settings = self.optimizers
      return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam(b1=settings.b1, b2=settings.b2))

    return adam(self.optimizers.clip), adam(self.optimizers.discriminator_clip)

  def _criticise(
    self, disc_params: PyTree, image: Array, anneals: Mapping[str, Array], stage: GanStage
  ) -> CriticOutput:
    return self.critic.apply({"params": disc_params}, image, anneals["fade"], fading=stage.fading)

  def _identity_losses(self, output: CriticOutput, fakes: Fakes) -> dict[str, Array]:
    """pi-GAN's identity penalty: the discriminator reads pose and latent off a fake, which must show them."""
    terms = {}
    if self.objectives.pose:
      terms["pose"] = self.objectives.pose * losses.consistency_loss(output.pose, fakes.pose)
    if self.objectives.latent:
      terms["latent"] = self.objectives.latent * losses.consistency_loss(output.latent, fakes.latents)
    return terms

  def _discriminator_step(
    self, state: GanState, real: Array, fakes: Fakes, anneals: Mapping[str, Array], stage: GanStage
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    fakes = jax.lax.stop_gradient(fakes)

    def loss_of(disc_params: PyTree) -> tuple[Array, dict[str, Array]]:
      real_logits, r1 = losses.logits_and_r1(
        lambda image: self._criticise(disc_params, image, anneals, stage).logit, real
      )
      output = self._criticise(disc_params, fakes.image, anneals, stage)
      terms = {
        "discriminator": losses.critic_loss(real_logits, output.logit),
        "r1": 0.5 * self.objectives.r1 * r1,
        **self._identity_losses(output, fakes),
      }
      metrics = {f"disc/{name}": value for name, value in terms.items()}
      metrics |= {"disc/real_logits": real_logits.mean(), "disc/fake_logits": output.logit.mean()}
      return sum(terms.values()), metrics

    grads, metrics = jax.grad(loss_of, has_aux=True)(state.disc_params)
    updates, opt = self._optimizers()[1].update(grads, state.disc_opt)
    metrics["disc/gradient_norm"] = optax.tree.norm(grads)
    return _descend(state.disc_params, updates, anneals["discriminator_rate"]), opt, metrics

  def _generator_step(
    self, state: GanState, disc_params: PyTree, key: Key, anneals: Mapping[str, Array], stage: GanStage
  ) -> tuple[PyTree, PyTree, Fakes, dict[str, Array]]:
    def loss_of(gen_params: PyTree) -> tuple[Array, tuple[Fakes, dict[str, Array]]]:
      fakes = self.generate(gen_params, key, anneals, stage=stage)
      output = self._criticise(disc_params, fakes.image, anneals, stage)
      groups = output.logit.reshape(-1, stage.topk_group or stage.batch_size)  # top-k within each, as published
      terms = {
        "generator": losses.generator_loss(groups, top_fraction=anneals["topk"]),
        **self._identity_losses(output, fakes),
        **self.extra_losses(gen_params, fakes),
      }
      metrics = {f"gen/{name}": value for name, value in terms.items()}
      return sum(terms.values()), (fakes, metrics)

    grads, (fakes, metrics) = jax.grad(loss_of, has_aux=True)(state.gen_params)
    grads = jax.tree.map(lambda g: stage.gradient_scale * g, grads)
    updates, opt = self._optimizers()[0].update(grads, state.gen_opt)
    metrics["gen/gradient_norm"] = optax.tree.norm(grads)
    return _descend(state.gen_params, updates, anneals["generator_rate"]), opt, fakes, metrics


def _descend(params: PyTree, updates: PyTree, rate: Array) -> PyTree:
  return jax.tree.map(lambda p, u: p - rate * u, params, updates)
