"""Step 2: the views and lights of pseudo samples, the losses of the offset encoder, and projected samples."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_gan import LATENT
from gan2shape_setup import (
  CONFIG,
  SIZE,
  ColorGan,
  batch_of,
  changed,
  color_batch,
  estimates_of,
  random_latents,
  with_scaled_predictions,
  with_true_predictions,
)

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.relief import lights_to_world
from shapegan_jax.methods.gan2shape.engine_settings import ProjectedSamples, StagedStage
from shapegan_jax.methods.gan2shape.latent_directions import Directions, ridge_regression
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.pseudo_samples import Estimates, PseudoSamples
from shapegan_jax.methods.gan2shape.relief_model import shade
from shapegan_jax.methods.gan2shape.settings import GanConfig, LightConfig, MaskConfig, ViewConfig
from shapegan_jax.rendering.shading import GaussianLights
from shapegan_jax.rng import stream
from shapegan_jax.types import Lights


def test_lights_are_sampled_relative_to_the_images_own(key):
  ranges = LightConfig(x=(-0.5, 0.7), y=(0.1, 0.2), strength=(-0.1, 0.6), ambient=-0.6)
  codes = jnp.repeat(jnp.array([[-0.4, 0.2, 9.0, 9.0], [0.6, -0.6, 9.0, 9.0]]), 500, 0)
  sampled, own = Lights(ranges.sample(key, codes)), Lights(codes)
  u = sampled.diffuse - own.diffuse
  np.testing.assert_allclose(sampled.ambient, own.ambient - 0.6 * u, atol=1e-6)
  for values, (low, high) in ((u, ranges.strength), (sampled.code[:, 2], ranges.x), (sampled.code[:, 3], ranges.y)):
    assert low <= values.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < values.max() <= high


def test_a_light_prior_is_sampled_in_the_world_frame(key):
  lights = LightConfig(mean=(-0.3, 0.2, 0.5, 0.1), covariance=tuple(map(tuple, np.diag([0.01, 0.04, 0.09, 0.0]))))
  sampled = lights.sample(key, jnp.full((4000, 4), 7.0))
  mean, deviation = lights.mean_and_std()
  np.testing.assert_allclose(mean, [-0.3, 0.2, -0.5, 0.1], atol=1e-6)
  np.testing.assert_allclose(sampled.mean(0), mean, atol=0.02)
  np.testing.assert_allclose(sampled.std(0), deviation, atol=0.02)
  with pytest.raises(UserError, match=r"config\.lights"):
    LightConfig(mean=(0.0,) * 4)


def test_views_are_sampled_from_their_prior_and_their_yaw_is_scaled(key):
  views = ViewConfig(mean=(0.1, 0.2, 0.0, 0.0, 0.0, 0.0), deviation=(0.1, 0.3, 0.0, 0.2, 0.1, 0.0), scale=1.2)
  sampled = np.asarray(views.sample(key, views.configured_prior(), 4000))
  np.testing.assert_allclose(sampled.mean(0), (0.1, 0.24, 0, 0, 0, 0), atol=0.02)
  np.testing.assert_allclose(sampled.std(0), (0.1, 0.36, 0.0, 0.2, 0.1, 0.0), rtol=0.05, atol=1e-6)
  estimated = dataclasses.replace(views, scale=1.0).estimated_prior(jnp.asarray(sampled))
  np.testing.assert_allclose(estimated.root @ estimated.root.T, np.cov(sampled, rowvar=False), atol=1e-5)
  covariance = tuple(map(tuple, np.cov(sampled, rowvar=False).tolist()))
  given = ViewConfig(covariance=covariance).configured_prior()
  np.testing.assert_allclose(given.root @ given.root.T, estimated.root @ estimated.root.T, atol=1e-5)


class WideGan(ColorGan):
  """Its styles have ten times the standard deviation."""

  def sample(self, key, n, truncation=1.0):
    return 10.0 * super().sample(key, n, truncation)


def test_latent_regression_is_the_error_of_known_offsets_in_standard_deviations(key):
  batch = color_batch()
  method = Gan2Shape.from_config(CONFIG)
  masks = jnp.ones((4, SIZE, SIZE))

  def error(factor, method=method, batch=batch, masks=masks):
    return with_scaled_predictions(method, factor).latent_regression_error({}, batch, masks, key)

  assert error(1.0) < 1e-10
  np.testing.assert_allclose(error(0.5), error(0.0) / 4, rtol=1e-5)
  instances = dataclasses.replace(batch.targets.instances, latent=10 * batch.targets.instances.latent)
  wide = dataclasses.replace(batch, gan=WideGan(), targets=dataclasses.replace(batch.targets, instances=instances))
  np.testing.assert_allclose(error(0.0, batch=wide), error(0.0), rtol=1e-5)
  masked = dataclasses.replace(method, masks=MaskConfig(background=0.0))
  assert error(1.0, method=masked, masks=0 * masks) > 0.5, "nothing is visible through empty masks"


@pytest.mark.parametrize("factor", [1.0, 0.0])
def test_refinement_converges_from_the_encoders_offset_for_each_sample_independently(factor, key):
  """A correct offset stays; from a zero offset the optimisation reaches the pseudo samples."""
  config = changed(gan={"refine": 200}, objectives={"features": 0.0})
  method, batch = with_scaled_predictions(Gan2Shape.from_config(config), factor), color_batch()
  styles = jnp.array([[0.2, 0.4, -0.3], [0.7, 0.1, -0.5], [0.0, 0.2, 0.3], [-0.6, 0.3, 0.1]])
  images = batch.gan.image(styles)
  pseudo = PseudoSamples(images, jnp.ones(images.shape[:3]), jnp.zeros((4, 6)), jnp.zeros((4, 4)))
  offset = factor * (styles - jnp.repeat(batch.targets.instances.latent, 2, 0))
  found = method.refine(batch, pseudo, offset)
  np.testing.assert_allclose(found[:, 0, 0], styles, atol=0.12)  # the rate is 0.1 standard deviations, here about 1
  others_changed = method.refine(batch, jax.tree.map(lambda x: x.at[2:].set(0.0), pseudo), offset)
  np.testing.assert_allclose(others_changed[:2], found[:2], atol=1e-4)


def test_directed_offsets_lead_to_images_with_the_predicted_pose_of_the_pseudo_samples(key):
  """The first three components of predicted views are a fraction of the style; the others have no variance."""
  prior = ViewConfig(mean=(0.1, 0.0, 0.0, 0.0, 0.0, 0.0), deviation=(0.3, 0.3, 0.3, 0.0, 0.0, 0.0))
  views = prior.configured_prior()
  for factor in (0.3, 0.1):
    method, batch = with_scaled_predictions(Gan2Shape.from_config(CONFIG), factor), color_batch()
    estimates = Estimates(views, method.estimate_directions({}, batch.gan, views))
    target = prior.sample(key, views, 4)
    pseudo = PseudoSamples(jnp.zeros((4, SIZE, SIZE, 3)), jnp.ones((4, SIZE, SIZE)), target, jnp.ones((4, 4)))
    offset = method.directed_offsets({}, dataclasses.replace(batch, estimates=estimates), pseudo)
    images = batch.gan.image(jnp.repeat(batch.targets.instances.latent, 2, 0) + offset)
    expected = (np.asarray(target)[:, :3] - np.array([0.1, 0.0, 0.0])) * factor / 0.3
    # Mean and standard deviation are empirical, hence the tolerance.
    np.testing.assert_allclose(method.predict_pose({}, images)[:, :3], expected, atol=0.08 * factor)
  zeros = Directions.zeros(10, 3).offsets(target[:, :1], target[:, :1], jnp.zeros(1), jnp.ones(1))
  assert (zeros == 0).all()


def test_ridge_regression_recovers_a_linear_map(rng):
  x, matrix = rng.normal(size=(400, 3)), rng.normal(size=(3, 5))
  y = x @ matrix + 7.0 + 0.1 * rng.normal(size=(400, 5))
  found = ridge_regression(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
  np.testing.assert_allclose(found, matrix, atol=0.03)


def test_moment_matching_compares_predictions_for_random_images_with_the_priors(key):
  prior = ViewConfig(deviation=(0.2, 0.2, 0.2, 0.0, 0.0, 0.0))
  variance = np.diag([0.3**2] * 3 + [0.0]).tolist()
  config = changed(objectives={"moment_matching": 2.0}, lights={"mean": (0.0,) * 4, "covariance": variance})
  method = Gan2Shape.from_config(config)
  batch = dataclasses.replace(color_batch(), estimates=estimates_of(prior))

  def terms(factor, batch=batch):
    return with_scaled_predictions(method, factor).moment_matching_terms({}, batch, key)

  right, half, none = terms(0.2), terms(0.1), terms(0.0)
  np.testing.assert_allclose(none["moment_matching_views"], 2 * 3 * 0.2**2, rtol=0.05)
  np.testing.assert_allclose(half["moment_matching_views"], 2 * 3 * 0.1**2, rtol=0.5)
  assert right["moment_matching_views"] < 0.3 * half["moment_matching_views"], "32 images give rough moments"
  np.testing.assert_allclose(none["moment_matching_lights"], 2 * 3 * 0.3**2, rtol=0.05)
  assert right["moment_matching_lights"] < half["moment_matching_lights"] < none["moment_matching_lights"]
  shifted = dataclasses.replace(prior, mean=(0.5,) * 3 + (0.0,) * 3)
  elsewhere = dataclasses.replace(batch, estimates=estimates_of(shifted))
  assert terms(0.2, elsewhere)["moment_matching_views"] > 1.0
  assert Gan2Shape.from_config(CONFIG).moment_matching_terms({}, batch, key) == {}


def test_moments_are_matched_in_the_pose_warm_up(key):
  method = with_scaled_predictions(Gan2Shape.from_config(changed(objectives={"moment_matching": 2.0})), 0.1)
  object.__setattr__(method, "pose_warmup_terms", lambda *unused: {"views": jnp.float32(3.0)})
  batch = dataclasses.replace(color_batch(), estimates=estimates_of(ViewConfig()))
  moments = method.moment_matching_terms({}, batch, key)["moment_matching_views"]
  total, terms = method.loss({}, batch, key, StagedStage(SIZE, 2, "pose_warmup", False))
  assert terms == {"pose_warmup/views": 3.0, "pose_warmup/moment_matching_views": moments}
  assert total == 3 + moments > 3


PRIOR = ViewConfig(mean=(0.0, 0.1, 0.0, 0.0, 0.0, 0.0), deviation=(0.1, 0.3, 0.0, 0.0, 0.0, 0.0))


def pseudo_samples(gan, latent, key, *, blank=False, **sections):
  """Of two instances whose predicted maps are the truth, that of the second inverted in colour (or, `blank`, grey).

  The views' estimate is `PRIOR`, the config's another.
  """
  method = with_true_predictions(Gan2Shape.from_config(changed(**sections)), gan, latent)
  albedo = jnp.stack([gan.albedo, -gan.albedo]) * (not blank)
  maps = method.model.with_normals(jnp.stack([gan.depth] * 2), albedo)
  object.__setattr__(method.model, "predict_canonical", lambda params, images: maps)
  batch = batch_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  batch = dataclasses.replace(batch, estimates=estimates_of(PRIOR))
  return jax.jit(method.render_pseudo_samples)({"latents": latent}, batch, key), maps


@pytest.mark.parametrize("given", [False, True])
def test_a_pseudo_sample_is_its_own_instance_in_a_view_and_a_light_of_their_streams(gan, rng, key, given):
  latent = random_latents(rng, 2, scale=0.2)
  ranges = {"x": (-0.5, 0.7), "y": (0.1, 0.2), "strength": (-0.1, 0.6), "ambient": -0.6}
  mean, variances = (-0.3, 0.2, 0.5, 0.1), (0.01, 0.04, 0.09, 0.04)
  prior = {"mean": mean, "covariance": tuple(map(tuple, np.diag(variances)))} if given else {}
  pseudo, maps = pseudo_samples(gan, latent, key, lights={**ranges, **prior}, views={"scale": 1.5})
  noise = np.asarray(jax.random.normal(stream(key, "views"), (4, 6)))
  views = np.array(PRIOR.mean) + noise @ np.asarray(PRIOR.configured_prior().root).T
  views[:, 1] *= 1.5
  np.testing.assert_allclose(pseudo.views, views, atol=1e-6)
  own = np.repeat(np.asarray(gan.lights(latent)), 2, 0)
  if given:  # drawn in the world's frame, where x is the other way
    lights = lights_to_world(
      GaussianLights(np.array(mean), np.diag(variances)).sample(stream(key, "lights"), (4,)).code
    )
  else:
    u, x, y = np.asarray(jax.random.uniform(stream(key, "lights"), (4, 3))).T
    u, x, y = -0.1 + 0.7 * u, -0.5 + 1.2 * x, 0.1 + 0.1 * y
    lights = np.stack([own[:, 0] - 1.2 * u, own[:, 1] + 2 * u, x, y], -1)
  np.testing.assert_allclose(pseudo.lights, lights, atol=1e-5)
  canonical = jax.tree.map(lambda x: x[jnp.array([0, 0, 1, 1])], maps)
  views = gan.model.denormalize_views(pseudo.views)
  expected = jax.jit(gan.model.render_view)(canonical.depth, shade(canonical, pseudo.lights)[0], views)
  np.testing.assert_allclose(pseudo.image, expected.image, atol=1e-5)
  np.testing.assert_allclose(pseudo.mask, expected.valid, atol=1e-5)


def test_with_texture_a_pseudo_sample_shows_the_input_image_unlit_and_lit_anew(gan, rng, key):
  """Whatever the predicted colours are, it is the object itself in another view and light."""
  latent = random_latents(rng, 2, scale=0.1)
  sections = {"objectives": {"texture": 1.0}, "lights": {"x": (0.3, 0.7), "y": (0.1, 0.2), "strength": (0.1, 0.2)}}
  pseudo, _ = pseudo_samples(gan, latent, key, blank=True, **sections)
  truth = jax.tree.map(lambda x: jnp.repeat(x[None], 4, 0), gan.model.with_normals(gan.depth, gan.albedo))
  views = gan.model.denormalize_views(pseudo.views)
  expected = jax.jit(gan.model.render_view)(truth.depth, shade(truth, pseudo.lights)[0], views)
  middle = np.s_[:, 4:-4, 4:-4]
  error = np.abs(pseudo.image - expected.image)[middle]
  other = np.abs(pseudo.image - jnp.repeat(gan.instances(latent).image, 2, 0))[middle]
  assert np.median(error) < 0.04
  assert np.median(error) < 0.3 * np.median(other)


def test_projections_start_from_the_latent_of_their_own_instance(key):
  batch = color_batch()  # of latents (1, 2, 3) and (0, 0, 0)
  method = with_scaled_predictions(Gan2Shape.from_config(changed(gan={"relative": False})), 0.5)
  colors = jnp.array([[0.2, 0.0, 0.4], [0.6, -0.2, 0.0], [0.0, 0.4, 0.2], [-0.4, 0.0, 0.8]])
  projected, offsets = method.encode_and_generate({}, batch, batch.gan.image(colors))
  np.testing.assert_allclose(offsets, colors / 2, atol=1e-6)
  expected = np.array([[1, 2, 3], [1, 2, 3], [0, 0, 0], [0, 0, 0]]) + np.asarray(colors) / 2
  np.testing.assert_allclose(projected[:, 0, 0], expected, atol=1e-6)
  pseudo = PseudoSamples(projected, jnp.ones(projected.shape[:3]), jnp.zeros((4, 6)), jnp.zeros((4, 4)))
  found = method.refine(batch, pseudo, offsets)  # in no step: where a refinement begins
  np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-5)
  relative = with_scaled_predictions(Gan2Shape.from_config(CONFIG), 0.5)
  # The generator's image of a latent need not be the picture that was given.
  targets = dataclasses.replace(batch.targets, gan_image=batch.targets.gan_image + 0.3)
  _, offsets = relative.encode_and_generate({}, dataclasses.replace(batch, targets=targets), batch.gan.image(colors))
  own = np.repeat(np.array([[1, 2, 3], [0, 0, 0]]) + 0.3, 2, 0)
  np.testing.assert_allclose(offsets, (np.asarray(colors) - own) / 2, atol=1e-5)


def truth_or_offset(predict_images, predicted_samples, params, images):
  return predict_images(params, images) if len(images) == 2 else predicted_samples


def test_the_pose_warm_up_is_the_error_of_views_and_lights_of_pseudo_samples(gan, rng, key):
  """Predictions are the truth for the input images; for pseudo samples the truth, or wrong by 0.1."""
  latent = random_latents(rng, 2, scale=0.2)
  batch = batch_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  batch = dataclasses.replace(batch, estimates=estimates_of(ViewConfig()))
  method = with_true_predictions(Gan2Shape.from_config(CONFIG), gan, latent)
  params = {"latents": latent, **method.model.init(key)}
  pseudo = method.render_pseudo_samples(params, batch, key)
  for error in (0.0, 0.1):
    model = dataclasses.replace(method.model)
    for name, truth in (("predict_views", pseudo.views), ("predict_lights", pseudo.lights)):
      object.__setattr__(model, name, partial(truth_or_offset, getattr(method.model, name), truth + error))
    object.__setattr__(model, "predict_canonical", method.model.predict_canonical)
    terms = dataclasses.replace(method, model=model).pose_warmup_terms(params, batch, key)
    np.testing.assert_allclose(terms["views"], 6 * error**2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(terms["lights"], 4 * error**2, rtol=1e-4, atol=1e-9)


def test_with_relative_offsets_the_gans_own_image_is_projected_to_itself(gan, rng, key):
  latent = random_latents(rng, 2, scale=0.4)
  batch = batch_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  images = jnp.repeat(batch.targets.gan_image, 2, 0)
  for relative in (True, False):
    method = Gan2Shape.from_config(changed(gan={"relative": relative}))
    params = method.model.init(key)
    projected, offsets = jax.jit(method.encode_and_generate)(params, batch, images)
    assert (float(jnp.abs(offsets).max()) < 1e-6) == relative
    assert np.allclose(projected, images, atol=1e-5) == relative


def test_images_of_a_larger_generator_are_cropped_and_downsampled(rng):
  image = jnp.asarray(rng.uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)
  np.testing.assert_array_equal(GanConfig().resized(image, 8), image)
  ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 8, 8, 3))
  middle = GanConfig(crop=0.5).resized(ramp, 4)
  np.testing.assert_allclose(middle[0, 0, :, 0], [2, 3, 4, 5], atol=1e-5)
  assert middle.shape == (1, 4, 4, 3)
  half = GanConfig().resized(ramp, 4)
  np.testing.assert_allclose(half[0, 0, 1:3, 0], [2.5, 4.5], atol=1e-5)


def test_projected_samples_are_stored_in_8_bits(rng):
  image, mask = rng.uniform(-1, 1, (1, 2, 3, 3, 3)), rng.uniform(0, 1, (1, 2, 3, 3))
  arrays = [jnp.asarray(x, jnp.float32) for x in (image, mask, np.zeros((1, 2, 6)), np.zeros((1, 2, 4)))]
  unpacked, unpacked_mask = ProjectedSamples.pack(*arrays).unpack()
  np.testing.assert_allclose(unpacked, image, atol=1 / 255 + 1e-6)
  np.testing.assert_allclose(unpacked_mask, mask, atol=0.5 / 255 + 1e-6)
