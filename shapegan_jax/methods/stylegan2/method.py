"""StyleGAN2: a generator of pictures (Karras et al., CVPR 2020, arXiv 1912.04958), the 2D GAN that GAN2Shape lifts.

It has neither cameras nor shapes: a latent becomes a style, a style a picture. Trained here, or converted from
published weights, it is what GAN2Shape looks for three dimensions in (`FrozenGan`).

Implemented: the networks (`networks/stylegan2.py`); the non-saturating loss; R1 every 16 steps and the path length
penalty every 4, each with its weight multiplied by that number and as an update of its own (section 3.1); mixing of two
styles from a random place on; an average of the generator whose half-life is counted in pictures; adaptive augmentation
(arXiv 2006.06676) and random shifts of the real pictures, without which a generator of centred objects cannot move them
and gives GAN2Shape little to see.

What differs from the authors' code: places where styles change are drawn per picture, theirs once per batch; R1 is
taken at the pictures the discriminator is shown, that is, after augmentation, theirs before; augmentation reads
pictures without a wavelet filter and is adjusted at every step instead of every fourth. The authors' code is under
NVIDIA's non-commercial licence; this is written from the papers and copies nothing of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.methods.stylegan2.augmentation import AugmentConfig, AugmentState, adapted, augmented, shifted
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.methods.stylegan2.lazy_updates import Descent, lazy_adam
from shapegan_jax.methods.stylegan2.sampling import StyleSampler
from shapegan_jax.methods.stylegan2.settings import Averages, ExportConfig, Objectives, Optimizers
from shapegan_jax.methods.stylegan2.state import StyleState
from shapegan_jax.methods.volume_gan.settings import RateTable
from shapegan_jax.networks.stylegan2 import Generator, Synthesis
from shapegan_jax.networks.stylegan2 import Mapping as StyleMapping
from shapegan_jax.networks.stylegan2_discriminator import Discriminator
from shapegan_jax.objectives import adversarial as losses
from shapegan_jax.objectives.adversarial import choose_loss
from shapegan_jax.objectives.path_length import path_penalty
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stage, Stages, examples_before, piecewise, stage_at
from shapegan_jax.sections import RUN_SETTINGS, Schema, read_sections
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rendering, Scene


@dataclasses.dataclass(frozen=True)
class StyleGan2:
  """The method; see the module's docstring."""

  has_shape = False
  has_surface = False
  uses_data = True

  generator: Generator
  discriminator: Discriminator
  table: RateTable
  stages: Stages[Stage]
  objectives: Objectives
  optimizers: Optimizers
  averages: Averages
  augment: AugmentConfig
  export: ExportConfig
  loss: losses.Loss

  @classmethod
  def sections(cls, config: Mapping[str, Any]) -> Schema:
    """The dataclass of each section that the method reads."""
    del config
    return {
      "stages": RateTable,
      "mapping": StyleMapping,
      "synthesis": Synthesis,
      "discriminator": Discriminator,
      "objectives": Objectives,
      "optimizers": Optimizers,
      "averages": Averages,
      "augment": AugmentConfig,
      "export": ExportConfig,
    }

  @classmethod
  def read(cls, config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections as their dataclasses.

    Raises:
      UserError: a setting that the method does not have, a value that may not stand there, or two that contradict.
    """
    read = read_sections(config, cls.sections(config), others=RUN_SETTINGS)
    discriminator, table, shrink = read["discriminator"], read["stages"], read["objectives"].path_shrink
    found = {read["synthesis"].resolution, discriminator.resolution, *table.resolution}
    if len(found) > 1:
      raise UserError(
        f"config.stages.resolution: generator, discriminator and stages disagree ({sorted(found)}); give synthesis and "
        "discriminator as many channels as there are sizes from 4 up to the pictures'"
      )
    for size in table.batch_size:
      if size % min(discriminator.group, size) or size % shrink:
        raise UserError(
          f"config.stages.batch_size: {size} cannot be divided into groups of {discriminator.group} "
          f"(discriminator.group) and by {shrink} (objectives.path_shrink)"
        )
    return read

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> StyleGan2:
    """From a plain nested config (see `configs/stylegan2.py`). Raises what `read` raises."""
    read = cls.read(config)
    mapping, table = read["mapping"], read["stages"]
    return cls(
      generator=Generator(mapping, read["synthesis"].clone(style_size=mapping.size)),
      discriminator=read["discriminator"],
      table=table,
      stages=table.expand(),
      objectives=read["objectives"],
      optimizers=read["optimizers"],
      averages=read["averages"],
      augment=read["augment"],
      export=read["export"],
      loss=choose_loss(read["objectives"].loss),
    )

  def plan(self, step: int) -> tuple[Stage, dict[str, float]]:
    """Stage of the step; anneals: the two rates and the decay of the generator's average."""
    stage, table = stage_at(self.stages, step), self.table
    return stage, {
      "generator_rate": piecewise(table.start, table.generator_rate, step),
      "discriminator_rate": piecewise(table.start, table.discriminator_rate, step),
      "decay": self.averages.decay(stage.batch_size, examples_before(self.stages, step)),
    }

  def init(self, key: Key, *, dependencies: Mapping[str, Any] | None = None) -> StyleState:
    """A fresh state; the average starts as the generator itself."""
    del dependencies
    gen_params = self.generator.init_params(stream(key, "generator"))["params"]
    disc_params = self.discriminator.init_params(stream(key, "discriminator"))["params"]
    gen_adam, disc_adam = (self.adam(name)[0] for name in ("generator", "discriminator"))
    return StyleState(
      step=jnp.zeros((), jnp.int32),
      gen_params=gen_params,
      disc_params=disc_params,
      gen_opt=gen_adam.init(gen_params),
      disc_opt=disc_adam.init(disc_params),
      ema_params=jax.tree.map(jnp.copy, gen_params),
      w_mean=jnp.zeros(self.generator.mapping.size),
      noise={f"noise_{i}": x[0] for i, x in enumerate(StyleSampler(self.generator).noise(stream(key, "noise"), 1))},
      path_mean=jnp.zeros(()),
      augment=AugmentState.fresh(),
    )

  def adam(self, name: str) -> tuple[optax.GradientTransformation, float]:
    """`lazy_adam` of the "generator" or the "discriminator"."""
    goals = self.objectives
    every, weight = (goals.path_every, goals.path) if name == "generator" else (goals.r1_every, goals.r1)
    return lazy_adam(self.optimizers.b1, self.optimizers.b2, every if weight else 0)

  def params_of(self, state: StyleState, *, ema: bool = True) -> PyTree:
    """The averaged generator with its mean style, its noise and the discriminator (which GAN2Shape needs), or the raw
    generator alone."""
    if not ema:
      return state.gen_params
    discriminator = {"discriminator": state.disc_params} if self.export.discriminator else {}
    return {**state.ema_params, "w_mean": state.w_mean, "noise": state.noise, **discriminator}

  def update(
    self, state: StyleState, batch: dict[str, Array], key: Key, anneals: dict[str, Array], *, stage: Stage
  ) -> tuple[StyleState, dict[str, Array]]:
    """Discriminator, R1, generator, path length, averages: one step. A penalty's metric is 0 where it was not due."""
    goals, draws = self.objectives, partial(stream, key, step=state.step)
    probability = state.augment.probability

    def shown(image: Array, name: str) -> Array:
      return augmented(image, draws(name), probability) if self.augment.adaptive else image

    def discriminate(disc_params: PyTree, image: Array) -> Array:
      return self.discriminator.apply({"params": disc_params}, image)

    n, draw = stage.batch_size, StyleSampler(self.generator, goals.mixing)
    real = shown(shifted(batch["image"], draws("shift"), self.augment.shift), "augment_real")
    fake = shown(draw.images(state.gen_params, draws("discriminator"), n)[0], "augment_fake")

    def disc_loss(disc_params: PyTree) -> tuple[Array, tuple[Array, Array]]:
      real_logits, fake_logits = discriminate(disc_params, real), discriminate(disc_params, fake)
      return self.loss.discriminator(real_logits, fake_logits), (real_logits, fake_logits)

    def r1_loss(disc_params: PyTree) -> tuple[Array, None]:
      _, r1, _ = losses.logits_and_penalty(lambda image: (discriminate(disc_params, image), None), real)
      return 0.5 * goals.r1 * goals.r1_every * r1.mean(), None

    def gen_loss(gen_params: PyTree) -> tuple[Array, Array]:
      image, w = draw.images(gen_params, draws("generator"), n)
      fake_logits = discriminate(disc_params, shown(image, "augment_generator"))
      return self.loss.generator(fake_logits, real_logits), w.mean((0, 1))

    def path_loss(gen_params: PyTree) -> tuple[Array, Array]:
      lengths = draw.path_lengths(gen_params, draws("path"), n // goals.path_shrink)
      penalty, mean = path_penalty(lengths, state.path_mean, decay=goals.path_decay)
      return goals.path * goals.path_every * penalty, mean

    disc = Descent(*self.adam("discriminator"), anneals["discriminator_rate"])
    gen = Descent(*self.adam("generator"), anneals["generator_rate"])
    disc_params, disc_opt, disc_value, logits = disc.step(disc_loss, state.disc_params, state.disc_opt)
    r1, path, path_mean = jnp.zeros(()), jnp.zeros(()), state.path_mean
    if goals.r1:
      due = state.step % goals.r1_every == 0
      disc_params, disc_opt, r1, _ = disc.step_if(due, r1_loss, disc_params, disc_opt, None)
    real_logits = discriminate(disc_params, real) if self.loss.pairs else None
    gen_params, gen_opt, gen_value, w_mean = gen.step(gen_loss, state.gen_params, state.gen_opt)
    if goals.path:
      due = state.step % goals.path_every == 0
      gen_params, gen_opt, path, path_mean = gen.step_if(due, path_loss, gen_params, gen_opt, state.path_mean)
    augment = adapted(state.augment, logits[0], self.augment) if self.augment.adaptive else state.augment
    after = StyleState(
      step=state.step + 1,
      gen_params=gen_params,
      disc_params=disc_params,
      gen_opt=gen_opt,
      disc_opt=disc_opt,
      ema_params=optax.incremental_update(gen_params, state.ema_params, 1.0 - anneals["decay"]),
      w_mean=optax.incremental_update(w_mean, state.w_mean, 1.0 - self.averages.style_decay),
      noise=state.noise,
      path_mean=path_mean,
      augment=augment,
    )
    metrics = {
      "disc/discriminator": disc_value,
      "disc/r1": r1,
      "disc/real_logits": logits[0].mean(),
      "disc/fake_logits": logits[1].mean(),
      "disc/real_sign": jnp.sign(logits[0]).mean(),
      "gen/generator": gen_value,
      "gen/path": path,
      "gen/path_length": path_mean,
    }
    if self.augment.adaptive:
      metrics["augment/probability"] = probability
    return after, metrics

  def sample_latents(self, key: Key, n: int) -> Array:
    return jax.random.normal(key, (n, self.generator.mapping.size))

  def sample_cameras(self, key: Key | None, n: int) -> Cameras:
    """Frontal ones: pictures have no cameras."""
    del key
    return self.cameras_at(jnp.zeros(n), jnp.zeros(n))

  def cameras_at(self, yaw: Array, pitch: Array) -> Cameras:
    return orbit_cameras(yaw, pitch, fov=jnp.deg2rad(12.0))

  def sample_lights(self, key: Key | None, n: int) -> Lights | None:
    del key, n
    return None

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> Codes:
    return Codes((self.frozen(params).styles(latents, truncation=truncation),))

  def render(
    self,
    params: PyTree,
    scene: Scene,
    *,
    resolution: int,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    """The pictures of latents or styles, brought to `resolution`; cameras and lights change nothing."""
    del key
    gan = self.frozen(params)
    image = gan.image(gan.styles(scene.latents, truncation=truncation))
    if resolution != gan.resolution:
      image = jax.image.resize(image, (image.shape[0], resolution, resolution, 3), "linear")
    return Rendering(rgb=(jnp.clip(image, -1.0, 1.0) + 1) / 2)

  def query(
    self,
    params: PyTree,
    latents: Array | Codes,
    points: Array,
    lights: Lights | None = None,
    viewdirs: Array | None = None,
  ) -> FieldSamples:
    raise UserError("query: StyleGAN2 makes pictures and has no shape; find one with configs/gan2shape.py")

  def frozen(self, params: PyTree) -> FrozenGan:
    """The trained generator of exported parameters (`params_of`)."""
    return FrozenGan(self.generator, self.discriminator, params)
