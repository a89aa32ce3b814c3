"""Step 2 of GAN2Shape: pseudo samples, their projection by the generator, and the losses that use them.

A pseudo sample is a rendering of the current shape in a known random view and light; its projected sample is the
nearest image that the generator can produce. See `gan2shape.method` for the steps. Ours in this file: the warm-up of
the view and light networks on pseudo samples, the regression of offsets between images of known latents, the moment
matching of predicted views and lights, and the refinement of offsets.
"""

from __future__ import annotations

import abc
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from shapegan_jax import parallel
from shapegan_jax.methods.gan2shape.engine_settings import ProjectedSamples, StageTable, StepBatch
from shapegan_jax.methods.gan2shape.latent_directions import Directions, fit_directions
from shapegan_jax.methods.gan2shape.relief_model import ReliefModel, shade
from shapegan_jax.methods.gan2shape.settings import (
  GanConfig,
  LightConfig,
  MaskConfig,
  Objectives,
  ViewConfig,
  ViewPrior,
)
from shapegan_jax.methods.stylegan2.frozen import FrozenGenerator
from shapegan_jax.objectives.reconstruction import masked_feature_distance, masked_l1
from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Key, PyTree, record

_MOMENT_BATCH = 32  # random images per step on which moments are matched
_REFINE_RATE = 0.1  # Adam's learning rate in units of the styles' standard deviation, as in `inversion.projection`
_STYLE_SAMPLES = 1024  # styles from which that standard deviation is computed


@record
class PseudoSamples:
  """Renderings [k * b] of k instances in known views and lights."""

  image: Array  # [k * b, s, s, 3] in [-1, 1]
  mask: Array  # [k * b, s, s]
  views: Array  # [k * b, 6] in the view network's units
  lights: Array  # [k * b, 4] codes in the frame of `geometry.relief`


@record
class Estimates:
  """What a run estimates besides its networks: the view prior, and the latent directions of view and light."""

  views: ViewPrior
  directions: Directions


@dataclasses.dataclass(frozen=True)
class PseudoSampling(abc.ABC):
  """Mixin of the method: renders pseudo samples, projects them, and computes the losses of step 2."""

  model: ReliefModel
  table: StageTable
  masks: MaskConfig
  gan: GanConfig
  views: ViewConfig
  lights: LightConfig
  objectives: Objectives

  def project(self, params: dict[str, PyTree], batch: StepBatch, key: Key) -> tuple[ProjectedSamples, dict[str, Array]]:
    """Projected samples of new pseudo samples, by the offset encoder and, with `gan.refine`, further optimisation."""
    pseudo = self.render_pseudo_samples(params, batch, key)
    projected, offset = self.encode_and_generate(params, batch, pseudo.image)
    metrics = {"projection/l1": masked_l1(projected, pseudo.image, pseudo.mask)}
    if self.gan.refine:
      if self.gan.directions:
        offset = self.directed_offsets(params, batch, pseudo)
      projected = self.refine(batch, pseudo, offset)
      metrics["projection/l1_refined"] = masked_l1(projected, pseudo.image, pseudo.mask)
    k, b = batch.targets.gan_image.shape[0], self.table.samples
    stored = (projected, pseudo.mask, pseudo.views, pseudo.lights)
    return ProjectedSamples.pack(*(x.reshape(k, b, *x.shape[1:]) for x in stored)), metrics

  def generate(self, gan: FrozenGenerator, latents: Array) -> Array:
    """The generator's images of latents [b, latent], in [-1, 1], cropped and resized to the method's resolution."""
    return self.gan.resized(gan.image(latents), self.model.resolution)

  def encoder_terms(self, params: dict[str, PyTree], batch: StepBatch, key: Key) -> dict[str, Array]:
    """The loss of step 2: distances between pseudo samples and their projections, and regularisation of the offsets."""
    weights = self.objectives
    pseudo = jax.lax.stop_gradient(self.render_pseudo_samples(params, batch, key))
    projected, offset = self.encode_and_generate(params, batch, pseudo.image)
    terms = self._projection_terms(batch, projected, pseudo)
    if weights.latent_regression:
      error = self.latent_regression_error(params, batch, pseudo.mask, key)
      terms["latent_regression"] = weights.latent_regression * error
    return terms | {"regular": weights.regular * jnp.mean(offset**2)}

  def _projection_terms(self, batch: StepBatch, projected: Array, pseudo: PseudoSamples) -> dict[str, Array]:
    terms = {"l1": masked_l1(projected, pseudo.image, pseudo.mask)}
    if self.objectives.features:
      features, targets = batch.gan.features(projected), batch.gan.features(pseudo.image)
      terms["features"] = self.objectives.features * masked_feature_distance(features, targets, pseudo.mask)
    return terms

  def refine(self, batch: StepBatch, pseudo: PseudoSamples, offset: Array) -> Array:
    """The generator's images after `gan.refine` steps of Adam on the offset of each pseudo sample, from `offset` on."""
    latent = jnp.repeat(batch.targets.instances.latent, self.table.samples, 0)
    unit, adam = self._style_deviation(batch.gan), optax.adam(_REFINE_RATE)

    def image_of(scaled: Array) -> Array:
      return self.generate(batch.gan, latent + unit * scaled)

    def loss(scaled: Array) -> Array:
      # Summed over samples: Adam's steps do not depend on the scale of the gradient, but its epsilon does, and a mean
      # would make the result depend on the number of samples.
      return len(latent) * sum(self._projection_terms(batch, image_of(scaled), pseudo).values())

    def step(_: Array, state: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
      scaled, moments = state
      updates, moments = adam.update(jax.grad(loss)(scaled), moments)
      return scaled + updates, moments

    scaled = offset / unit
    return image_of(jax.lax.fori_loop(0, self.gan.refine, step, (scaled, adam.init(scaled)))[0])

  def predict_pose(self, params: dict[str, PyTree], images: Array) -> Array:
    """[b, 10] predicted views and lights of images."""
    return jnp.concatenate([self.model.predict_views(params, images), self.model.predict_lights(params, images)], -1)

  def estimate_directions(self, params: dict[str, PyTree], gan: FrozenGenerator, views: ViewPrior) -> Directions:
    """The directions of view and light in the style space, according to the current view and light networks."""
    varying = (self._prior_moments(views)[1] > 0).astype(jnp.float32)
    return fit_directions(partial(self.predict_pose, params), partial(self.generate, gan), gan, varying)

  def directed_offsets(self, params: dict[str, PyTree], batch: StepBatch, pseudo: PseudoSamples) -> Array:
    """Offsets along the directions, from the predicted view and light of the input images to the pseudo samples'."""
    target = jnp.concatenate([pseudo.views, pseudo.lights], -1)
    current = jnp.repeat(self.predict_pose(params, batch.targets.instances.image), self.table.samples, 0)
    return batch.estimates.directions.offsets(target, current, *self._prior_moments(batch.estimates.views))

  def _prior_moments(self, views: ViewPrior) -> tuple[Array, Array]:
    """Mean and standard deviation [10] of the view and light priors; 0 for lights without a prior."""
    lights = self.lights.mean_and_std() if self.lights.prior is not None else (jnp.zeros(4), jnp.zeros(4))
    both = ((views.mean, jnp.sqrt(jnp.sum(views.root**2, -1))), lights)
    mean, deviation = map(jnp.concatenate, zip(*both, strict=True))
    return mean, deviation

  def pose_warmup_terms(self, params: dict[str, PyTree], batch: StepBatch, key: Key) -> dict[str, Array]:
    """Squared errors of the views and lights predicted for pseudo samples."""
    pseudo = jax.lax.stop_gradient(self.render_pseudo_samples(params, batch, key))
    predicted = (predict(params, pseudo.image) for predict in (self.model.predict_views, self.model.predict_lights))
    return pose_errors(*predicted, pseudo.views, pseudo.lights)

  def moment_matching_terms(self, params: dict[str, PyTree], batch: StepBatch, key: Key) -> dict[str, Array]:
    """Squared differences between the mean and standard deviation of predictions for random images and the priors'."""
    if not self.objectives.moment_matching:
      return {}
    latents = batch.gan.sample(stream(key, "census"), _MOMENT_BATCH)
    images = jax.lax.stop_gradient(self.generate(batch.gan, latents))
    predicted, (mean, deviation) = self.predict_pose(params, images), self._prior_moments(batch.estimates.views)
    centred = predicted - jnp.mean(predicted, 0, keepdims=True)
    spread = jnp.sqrt(jnp.sum(centred**2, 0) / (_MOMENT_BATCH - 1) + 1e-6)
    errors = self.objectives.moment_matching * ((jnp.mean(predicted, 0) - mean) ** 2 + (spread - deviation) ** 2)
    terms = {"moment_matching_views": jnp.sum(errors[:6])}
    if self.lights.prior is not None:
      terms["moment_matching_lights"] = jnp.sum(errors[6:])
    return terms

  def latent_regression_error(self, params: dict[str, PyTree], batch: StepBatch, masks: Array, key: Key) -> Array:
    """Mean squared error, in standard deviations of styles, of the offsets from the instances to random images.

    The random images are seen through the pseudo samples' `masks`, so that the encoder cannot take what is visible
    only outside of them for a view.
    """
    latent = jnp.repeat(batch.targets.instances.latent, self.table.samples, 0)
    others = batch.gan.sample(stream(key, "others"), latent.shape[0])
    images = jax.lax.stop_gradient(self.masks.on_background(self.generate(batch.gan, others), masks))
    errors = self._encode_offsets(params, batch, images) - (others - latent)
    return jnp.mean((errors / self._style_deviation(batch.gan)) ** 2)

  def _style_deviation(self, gan: FrozenGenerator) -> Array:
    """[1, latent] standard deviation of each component of the styles, always from the same sample."""
    return jnp.std(gan.sample(root_key(0), _STYLE_SAMPLES), 0)[None]

  def render_pseudo_samples(self, params: dict[str, PyTree], batch: StepBatch, key: Key) -> PseudoSamples:
    """The instances in views and lights sampled from the priors, `table.samples` of each."""
    model, instances = self.model, batch.targets.instances
    k, b = instances.image.shape[0], self.table.samples
    canonical = model.predict_canonical(params, instances.image)
    lights = model.predict_lights(params, instances.image)
    canonical_mask = jnp.ones_like(instances.mask)
    own_views = model.denormalize_views(model.predict_views(params, instances.image))
    if self.masks.in_loss:
      canonical_mask = model.canonical_mask(canonical.depth, instances.mask, own_views)
    if self.objectives.texture:
      canonical, _ = model.with_image_texture(canonical, instances.image, own_views, lights)
    views = self.views.sample(stream(key, "views"), batch.estimates.views, k * b)
    canonical, lights, canonical_mask = jax.tree.map(lambda x: jnp.repeat(x, b, 0), (canonical, lights, canonical_mask))
    lights = self.lights.sample(stream(key, "lights"), lights)
    canonical, lights, canonical_mask, views = parallel.over_batch((canonical, lights, canonical_mask, views))
    rendered = model.render_view(canonical.depth, shade(canonical, lights)[0], model.denormalize_views(views))
    mask = rendered.valid * sample_image(canonical_mask[..., None], rendered.grid, method="nearest")[..., 0]
    return PseudoSamples(self.masks.on_background(rendered.image, mask), mask, views, lights)

  def encode_and_generate(self, params: dict[str, PyTree], batch: StepBatch, images: Array) -> tuple[Array, Array]:
    """(the generator's images for the encoded pseudo samples [k * b], the offsets of their latents)."""
    offsets = self._encode_offsets(params, batch, images)
    b = images.shape[0] // batch.targets.gan_image.shape[0]
    return self.generate(batch.gan, jnp.repeat(batch.targets.instances.latent, b, 0) + offsets), offsets

  def _encode_offsets(self, params: dict[str, PyTree], batch: StepBatch, images: Array) -> Array:
    """Offsets of the latents of images [k * b] from those of their instances."""
    b = images.shape[0] // batch.targets.gan_image.shape[0]
    offset = self.model.apply(params, "offset", images)
    if self.gan.relative:
      offset = offset - jnp.repeat(self.model.apply(params, "offset", batch.targets.gan_image), b, 0)
    return batch.gan.offset(offset, self.gan.tail)


def pose_errors(
  views: Float[Array, "*b 6"],
  lights: Float[Array, "*b 4"],
  true_views: Float[Array, "*b 6"],
  true_lights: Float[Array, "*b 4"],
) -> dict[str, Float[Array, ""]]:
  """{"views", "lights"}: mean squared distances of predicted views and lights from the true ones."""

  def mean_square(error: Array) -> Array:
    return jnp.mean(jnp.sum(error**2, -1))

  return {"views": mean_square(views - true_views), "lights": mean_square(lights - true_lights)}
