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

from shapegan_jax import parallel
from shapegan_jax.methods.volume_gan.settings import Averages, GanStage, Objectives, Optimizers, StageTable
from shapegan_jax.objectives import adversarial as losses
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stages, piecewise, ramp, stage_at
from shapegan_jax.state import ema_update
from shapegan_jax.types import Array, DiscriminatorOutput, Key, PyTree, Rendering, Scene, record


@record
class GanState:
  """Everything a run carries from step to step."""

  step: Array  # [] int32, updates done
  gen_params: PyTree
  disc_params: PyTree
  disc_extra: PyTree  # the discriminator's variables that no gradient trains: GRAF's spectral vectors, else {}
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

  @classmethod
  def of(cls, rendering: Rendering, scene: Scene, aux: PyTree = None) -> Fakes:
    """The pictures of a rendering [b, h, w] of a scene."""
    pose = jnp.stack([scene.cameras.pitch, scene.cameras.yaw], axis=-1)
    return cls(image=2.0 * rendering.rgb - 1.0, latents=scene.latents, pose=pose, aux=aux)


@dataclasses.dataclass(frozen=True)
class AdversarialMethod(abc.ABC):
  """The engine. A method says how a generator is made (`init_generator`) and how it makes a batch (`generate`)."""

  uses_data = True

  discriminator: nn.Module
  table: StageTable
  stages: Stages[GanStage]
  objectives: Objectives
  optimizers: Optimizers
  averages: Averages
  loss: losses.Loss

  @abc.abstractmethod
  def init_generator(self, key: Key) -> PyTree:
    """Fresh generator parameters."""

  @abc.abstractmethod
  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Fakes:
    """One batch of `stage.batch_size` pictures with prior latents, poses and lights."""

  def real_images(self, image: Array, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Array:
    """What the discriminator sees of the real pictures [b, h, w, 3]: here all of each."""
    del key, anneals, stage
    return image

  def discriminate(
    self, disc_params: PyTree, disc_extra: PyTree, image: Array, anneals: Mapping[str, Array], stage: GanStage
  ) -> DiscriminatorOutput:
    """The discriminator's answer; it changes nothing."""
    return self.discriminator.apply({"params": disc_params, **disc_extra}, image, anneals["fade"], fading=stage.fading)

  def advance_discriminator(self, disc_params: PyTree, disc_extra: PyTree) -> PyTree:
    """The next `disc_extra`, once per update and before it: here the same."""
    del disc_params
    return disc_extra

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
    if goals.r1_ramp[1]:
      anneals["r1"] = goals.r1 + (goals.r1_final - goals.r1) * ramp(step, *goals.r1_ramp)
    return stage_at(self.stages, step), anneals

  def init(self, key: Key, *, dependencies: Mapping[str, Any] | None = None) -> GanState:
    """A fresh state; both averages start as the generator itself."""
    del dependencies
    gen_params = self.init_generator(stream(key, "generator"))
    disc_extra = dict(self.discriminator.init_params(stream(key, "discriminator")))
    disc_params = disc_extra.pop("params")
    gen_tx, disc_tx = self._optimizers()
    return GanState(
      step=jnp.zeros((), jnp.int32),
      gen_params=gen_params,
      disc_params=disc_params,
      disc_extra=disc_extra,
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
    real = self.real_images(batch["image"], stream(key, "real", state.step), anneals, stage=stage)
    disc_extra = self.advance_discriminator(state.disc_params, state.disc_extra)
    discriminator = (state.disc_params, disc_extra)
    if self.objectives.shared_fakes:
      made = self._generator_step(state, discriminator, real, gen_key, anneals, stage)
      gen_params, gen_opt, fakes, gen_metrics = made
      disc_params, disc_opt, disc_metrics = self._discriminator_step(state, discriminator, real, fakes, anneals, stage)
    else:
      fakes = self.generate(state.gen_params, stream(key, "discriminator", state.step), anneals, stage=stage)
      disc_params, disc_opt, disc_metrics = self._discriminator_step(state, discriminator, real, fakes, anneals, stage)
      discriminator = (disc_params, disc_extra)
      gen_params, gen_opt, _, gen_metrics = self._generator_step(state, discriminator, real, gen_key, anneals, stage)
    step = state.step + 1
    new_state = GanState(
      step=step,
      gen_params=gen_params,
      disc_params=disc_params,
      disc_extra=disc_extra,
      gen_opt=gen_opt,
      disc_opt=disc_opt,
      ema_params=self._averaged(state.ema_params, gen_params, self.averages.decay, step),
      ema_slow_params=self._averaged(state.ema_slow_params, gen_params, self.averages.slow_decay, step),
    )
    return new_state, {**disc_metrics, **gen_metrics}

  def _optimizers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    settings = self.optimizers
    if settings.kind == "adam":
      scale = optax.scale_by_adam(b1=settings.b1, b2=settings.b2)
    else:
      scale = optax.scale_by_rms(decay=settings.alpha, eps=1e-8, eps_in_sqrt=False)

    def clipped(clip: float) -> optax.GradientTransformation:
      return optax.chain(optax.clip_by_global_norm(clip) if clip else optax.identity(), scale)

    return clipped(settings.clip), clipped(settings.discriminator_clip)

  def _averaged(self, average: PyTree, params: PyTree, decay: float, step: Array) -> PyTree:
    if self.averages.warmup:
      return ema_update(average, params, decay, step)
    return optax.incremental_update(params, average, 1.0 - decay)

  def _identity_losses(self, output: DiscriminatorOutput, fakes: Fakes) -> dict[str, Array]:
    """pi-GAN's identity penalty: the discriminator reads pose and latent off a fake, which must show them."""
    terms = {}
    if self.objectives.pose:
      terms["pose"] = self.objectives.pose * losses.consistency_loss(output.pose, fakes.pose)
    if self.objectives.latent:
      terms["latent"] = self.objectives.latent * losses.consistency_loss(output.latent, fakes.latents)
    return terms

  def _scored(
    self, discriminator: tuple[PyTree, PyTree], image: Array, anneals: Mapping[str, Array], stage: GanStage
  ) -> DiscriminatorOutput:
    """`discriminate`, in the micro-batches of the stage."""

    def score(discriminator: tuple[PyTree, PyTree], image: Array) -> DiscriminatorOutput:
      return self.discriminate(*discriminator, image, anneals, stage)

    return parallel.in_micro_batches(score, discriminator, image, count=stage.micro_batches)

  def _discriminator_step(
    self,
    state: GanState,
    discriminator: tuple[PyTree, PyTree],
    real: Array,
    fakes: Fakes,
    anneals: Mapping[str, Array],
    stage: GanStage,
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    fakes = jax.lax.stop_gradient(fakes)
    params, extra = discriminator

    def penalised(discriminator: tuple[PyTree, PyTree], image: Array) -> tuple[Array, DiscriminatorOutput]:
      """(squared norm of the logit's gradient, answer) for each picture."""

      def answer(image: Array) -> tuple[Array, DiscriminatorOutput]:
        output = self.discriminate(*discriminator, image, anneals, stage)
        return output.logit, output

      _, penalty, output = losses.logits_and_penalty(answer, image)
      return penalty, output

    def loss_of(disc_params: PyTree) -> tuple[Array, dict[str, Array]]:
      discriminator, goals = (disc_params, extra), self.objectives
      r1, on_real = parallel.in_micro_batches(penalised, discriminator, real, count=stage.micro_batches)
      terms = {"r1": 0.5 * anneals.get("r1", goals.r1) * r1.mean()}
      if goals.r2:
        r2, output = parallel.in_micro_batches(penalised, discriminator, fakes.image, count=stage.micro_batches)
        terms["r2"] = 0.5 * goals.r2 * r2.mean()
      else:
        output = self._scored(discriminator, fakes.image, anneals, stage)
      terms = {
        "discriminator": self.loss.discriminator(on_real.logit, output.logit),
        **terms,
        **self._identity_losses(output, fakes),
      }
      metrics = {f"disc/{name}": value for name, value in terms.items()}
      metrics |= {"disc/real_logits": on_real.logit.mean(), "disc/fake_logits": output.logit.mean()}
      return sum(terms.values()), metrics

    grads, metrics = jax.grad(loss_of, has_aux=True)(params)
    updates, opt = self._optimizers()[1].update(grads, state.disc_opt)
    metrics["disc/gradient_norm"] = optax.tree.norm(grads)
    return _descend(params, updates, anneals["discriminator_rate"]), opt, metrics

  def _generator_step(
    self,
    state: GanState,
    discriminator: tuple[PyTree, PyTree],
    real: Array,
    key: Key,
    anneals: Mapping[str, Array],
    stage: GanStage,
  ) -> tuple[PyTree, PyTree, Fakes, dict[str, Array]]:
    real_logits = self._scored(discriminator, real, anneals, stage).logit if self.loss.pairs else None

    def loss_of(gen_params: PyTree) -> tuple[Array, tuple[Fakes, dict[str, Array]]]:
      fakes = self.generate(gen_params, key, anneals, stage=stage)
      output = self._scored(discriminator, fakes.image, anneals, stage)
      groups = stage.topk_group or stage.batch_size  # top-k within each, as published
      logits, on_real = jax.tree.map(lambda x: x.reshape(-1, groups), (output.logit, real_logits))
      terms = {
        "generator": self.loss.generator(logits, on_real, top_fraction=anneals["topk"]),
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
