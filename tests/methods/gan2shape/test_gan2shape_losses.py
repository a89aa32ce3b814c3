"""The losses of steps 1 and 3: what they compare, and that they vanish for the true shape."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from analytic_gan import LATENT
from compiler_flags import AS_SHIPPED
from gan2shape_setup import SIZE, batch_of, changed, estimates_of, random_latents, with_true_predictions

from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.reconstruction_losses import depth_scale_error
from shapegan_jax.methods.gan2shape.settings import ViewConfig
from shapegan_jax.objectives.reconstruction import smoothness


def parameters(latent, samples):
  """The latents of the images and of their samples, in the order in which they are predicted."""
  return {"latents": jnp.concatenate([latent[:, None], samples], 1).reshape(-1, LATENT)}


def compiled_terms(method, **options):
  return jax.jit(method.reconstruction_terms, static_argnames=("joint", "flip"), **options)


def test_true_maps_reconstruct_images_and_samples_but_their_mirror_does_not(gan, rng):
  latent, samples = random_latents(rng, 2, scale=0.4), random_latents(rng, 2, 2, scale=0.4)
  method = with_true_predictions(Gan2Shape.from_config(changed(objectives={"smooth": 1.0})), gan, latent)
  terms_of = compiled_terms(method, compiler_options=AS_SHIPPED)
  batch = batch_of(gan, latent, samples)
  step_1 = terms_of({"latents": latent}, batch, joint=False, flip=False)
  assert set(step_1) == {"l1"}
  assert step_1["l1"] < 1e-5
  terms = terms_of(parameters(latent, samples), batch, joint=True, flip=False)
  assert set(terms) == {"l1", "samples_l1", "smooth"}
  assert terms["l1"] < 1e-5
  assert terms["samples_l1"] < 1 / 255  # samples are stored in 8 bits
  mirrored = terms_of(parameters(latent, samples), batch, joint=True, flip=True)
  assert mirrored["l1"] > 0.1
  assert mirrored["samples_l1"] > 0.1


def test_a_symmetric_object_is_reconstructed_by_its_mirror_too(gan, rng):
  twin = dataclasses.replace(
    gan, **{name: (x + jnp.flip(x, 1)) / 2 for name, x in (("depth", gan.depth), ("albedo", gan.albedo))}
  )
  front = jnp.zeros((2, LATENT))
  method = with_true_predictions(Gan2Shape.from_config(changed()), twin, front)
  batch = batch_of(twin, front, random_latents(rng, 2, 2, scale=0.4))
  terms = compiled_terms(method, compiler_options=AS_SHIPPED)({"latents": front}, batch, joint=False, flip=True)
  assert terms["l1"] < 1e-5


def test_with_image_texture_samples_are_reconstructed_without_albedo_which_is_still_learned(gan, rng):
  latent, samples = random_latents(rng, 2, scale=0.2), random_latents(rng, 2, 2, scale=0.2)
  blank = dataclasses.replace(gan, albedo=jnp.zeros_like(gan.albedo))
  found = {}
  for weight in (0.0, 2.0):
    config = changed(objectives={"texture": weight}, masks={"in_loss": True})
    for name, predicted in (("blank", blank), ("truth", gan)):
      method = with_true_predictions(Gan2Shape.from_config(config), predicted, latent)
      batch = batch_of(gan, latent, samples)
      found[weight, name] = compiled_terms(method)(parameters(latent, samples), batch, joint=True, flip=False)
  assert "texture" not in found[0.0, "blank"]
  assert found[2.0, "blank"]["samples_l1"] < 0.5 * found[0.0, "blank"]["samples_l1"]
  np.testing.assert_allclose(found[2.0, "blank"]["samples_l1"], found[2.0, "truth"]["samples_l1"], rtol=1e-5)
  assert found[2.0, "truth"]["texture"] < 0.4 * found[2.0, "blank"]["texture"]


def test_the_texture_is_learned_by_the_albedo_and_moves_no_shape(gan, rng):
  latent, samples = random_latents(rng, 2, scale=0.2), random_latents(rng, 2, 2, scale=0.2)
  method = with_true_predictions(Gan2Shape.from_config(changed(objectives={"texture": 2.0})), gan, latent)
  truth, model = method.model.predict_canonical({}, None), method.model

  def moved(params, images):
    return model.with_normals(truth.depth + params["depth"], truth.albedo + params["albedo"])

  object.__setattr__(model, "predict_canonical", moved)
  batch, known = batch_of(gan, latent, samples), parameters(latent, samples)

  def texture(given):
    return method.reconstruction_terms(known | given, batch, joint=True, flip=False)["texture"]

  slopes = jax.jit(jax.grad(texture))({"depth": jnp.float32(0.005), "albedo": jnp.float32(0.05)})
  assert slopes["depth"] == 0
  assert abs(slopes["albedo"]) > 0.1

  # The texture is the image's own, seen in its own view and light: its samples have no part in it.
  @jax.jit
  def of(samples):
    batch, known = batch_of(gan, latent, samples), parameters(latent, samples)
    given = {"depth": jnp.float32(0.0), "albedo": jnp.float32(0.05)}
    return method.reconstruction_terms(known | given, batch, joint=True, flip=False)["texture"]

  np.testing.assert_allclose(of(samples), of(random_latents(rng, 2, 2, scale=0.5)), rtol=1e-4)


def test_the_pose_warm_up_teaches_how_samples_are_read_and_not_how_they_are_made(gan, rng, key):
  """Own lights are predicted by the network that learns; in what is shown and asked for they are given."""
  latent = random_latents(rng, 2, scale=0.2)
  method = with_true_predictions(Gan2Shape.from_config(changed()), gan, latent)
  batch = dataclasses.replace(batch_of(gan, latent, jnp.zeros((2, 2, LATENT))), estimates=estimates_of(ViewConfig()))

  def lights(params, images):
    own = len(images) == 2
    return gan.lights(latent) + params["own"] if own else jnp.full((len(images), 4), params["read"])

  object.__setattr__(method.model, "predict_lights", lights)
  object.__setattr__(method.model, "predict_views", lambda params, images: jnp.zeros((len(images), 6)))

  def error(given):
    return method.pose_warmup_terms({"latents": latent} | given, batch, key)["lights"]

  slopes = jax.jit(jax.grad(error))({"own": jnp.float32(0.1), "read": jnp.float32(0.3)})
  assert slopes["own"] == 0
  assert abs(slopes["read"]) > 0.1


def test_pose_consistency_compares_predictions_with_the_pseudo_samples_pose(gan, rng):
  latent, samples = random_latents(rng, 2, scale=0.2), random_latents(rng, 2, 2, scale=0.2)
  method = with_true_predictions(Gan2Shape.from_config(changed(objectives={"pose_consistency": 3.0})), gan, latent)
  batch, terms_of = batch_of(gan, latent, samples), compiled_terms(method)
  for error in (0.0, 0.1):
    moved = dataclasses.replace(batch.samples, views=batch.samples.views + error, lights=batch.samples.lights - error)
    terms = terms_of(parameters(latent, samples), dataclasses.replace(batch, samples=moved), joint=True, flip=False)
    np.testing.assert_allclose(terms["pose_consistency_views"], 3 * 6 * error**2, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(terms["pose_consistency_lights"], 3 * 4 * error**2, rtol=1e-3, atol=1e-9)
  step_1 = terms_of({"latents": latent}, batch, joint=False, flip=False)
  assert "pose_consistency_views" not in step_1, "step 1 has no samples"


def test_the_depth_prior_is_the_initial_shape(gan, rng, key):
  latent = random_latents(rng, 2, scale=0.2)
  method = Gan2Shape.from_config(changed(objectives={"depth_prior": 2.0}))
  networks = method.model.init(key)
  given = {"gan": gan, "instances": gan.instances(latent)}
  ellipsoid = method.init(key, dependencies=given).targets.prior
  np.testing.assert_allclose(ellipsoid, method.masks.prior(given["instances"].mask))
  predicted = method.init(key, dependencies={**given, "networks": networks}).targets.prior
  np.testing.assert_allclose(
    predicted, method.model.depth_without_border(networks, given["instances"].image), atol=1e-6
  )
  batch = batch_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  for prior, expected in ((predicted, 0.0), (predicted + 0.011, 2 * 0.1**2)):
    moved = dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, prior=prior))
    terms = method.reconstruction_terms(networks, moved, joint=True, flip=False)
    np.testing.assert_allclose(terms["depth_prior"], expected, rtol=1e-3, atol=1e-9)
  assert "depth_prior" not in method.reconstruction_terms(networks, batch, joint=False, flip=False)


def test_the_depth_scale_is_compared_with_the_initial_shapes(gan, rng, key):
  prior = 1.0 + 0.02 * jnp.asarray(rng.normal(size=(2, SIZE, SIZE)), jnp.float32)
  mean = jnp.mean(prior, (1, 2), keepdims=True)
  for factor in (0.5, 1.0, 1.25):
    depth = mean + factor * (prior - mean) + 0.03
    np.testing.assert_allclose(depth_scale_error(depth, prior), (factor - 1) ** 2, rtol=1e-3, atol=1e-6)
  assert np.all(np.isfinite(jax.grad(depth_scale_error)(jnp.ones_like(prior), prior))), "gradient of a flat map"
  method = Gan2Shape.from_config(changed(objectives={"depth_scale": 3.0}))
  networks, latent = method.model.init(key), jnp.zeros((2, LATENT))
  batch = batch_of(gan, latent, jnp.zeros((2, 2, LATENT)))
  depth = method.model.depth_without_border(networks, batch.targets.instances.image)
  terms = method.reconstruction_terms(networks, batch, joint=True, flip=False)
  np.testing.assert_allclose(terms["depth_scale"], 3 * depth_scale_error(depth, batch.targets.prior), rtol=1e-5)


def test_roughness_is_that_of_the_depth_and_of_its_shading_in_the_images_own_light(gan, rng):
  latent, samples = random_latents(rng, 2, scale=0.2), random_latents(rng, 2, 2, scale=2.0)
  method = with_true_predictions(Gan2Shape.from_config(changed(objectives={"smooth": 5.0})), gan, latent)
  batch = batch_of(gan, latent, samples)
  terms = compiled_terms(method)(parameters(latent, samples), batch, joint=True, flip=False)
  normals = np.asarray(gan.model.with_normals(gan.depth, gan.albedo).normals)
  towards = np.asarray(jnp.concatenate([gan.lights(latent)[:, 2:], jnp.ones((2, 1))], -1))
  towards = towards / np.linalg.norm(towards, axis=-1, keepdims=True)
  shading = np.maximum(np.einsum("hwi,bi->bhw", normals, towards), 0.0)
  rough = smoothness(gan.depth[None]) + smoothness(jnp.asarray(shading))
  np.testing.assert_allclose(terms["smooth"], 5 * rough, rtol=1e-3)
