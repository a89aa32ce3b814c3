"""What the SIREN methods ask of the renderer: in training and at inference, with and without surface tracking."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, pigan, shadegan
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan import renderer as siren_parts
from shapegan_jax.networks.surface_net import relative_to_distance
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.types import Lights, Rendering, Scene

GREY = 0.75
SIGNATURE = inspect.signature(siren_parts.render_instances)


def published(module, preset):
  config = common.shrink(module.get_config(preset))
  config.stages.samples = tuple(8 for _ in config.stages.samples)
  config.rendering.eval_samples = 5
  return build(config.to_dict())


@pytest.fixture
def asked(monkeypatch):
  """The arguments of the last rendering; nothing is rendered."""
  last = {}

  def render_instances(*args, **kwargs):
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    last.clear()
    last.update(bound.arguments)
    shape = (last["codes"][0].shape[0], last["resolution"], last["resolution"])
    return Rendering(rgb=jnp.full((*shape, 3), GREY), distance=jnp.ones(shape))

  monkeypatch.setattr(siren_parts, "render_instances", render_instances)
  return last


def traced(anneals, **others):
  return {name: jnp.float32(value) for name, value in (anneals | others).items()}


def test_a_training_batch_is_rendered_with_the_stages_samples_noise_and_random_draws(asked, key):
  method = published(pigan, "celeba")  # its evaluation alone gives the rest of a ray to the last sample
  params = method.init_generator(key)
  stage, anneals = method.plan(1250)
  assert anneals["density_noise"] == 0.75
  fakes = method.generate(params, key, traced(anneals), stage=stage)
  np.testing.assert_allclose(fakes.image, 2 * GREY - 1)
  scene = method.training_scene(key, stage.batch_size)
  latents, cameras = scene.latents, scene.cameras
  np.testing.assert_array_equal(fakes.latents, latents)
  np.testing.assert_array_equal(fakes.pose, np.stack([cameras.pitch, cameras.yaw], -1))
  np.testing.assert_array_equal(asked["cameras"].cam2world, cameras.cam2world)
  np.testing.assert_allclose(asked["codes"][0], method.generator.codes(params, latents)[0])
  draws, shape = asked["draws"], (stage.batch_size, stage.resolution**2)
  assert draws.jitter.shape == draws.fine.shape == (*shape, 8)
  assert draws.noise.shape == (*shape, 16)
  assert np.std(draws.noise) == pytest.approx(0.75, rel=0.1)
  assert np.std(draws.coarse_noise) == pytest.approx(0.75, rel=0.1)
  assert (asked["sampler"].coarse, asked["sampler"].fine, asked["sampler"].last) == (8, 8, "published")
  assert not asked["compositor"].last_back
  assert asked["resolution"] == stage.resolution
  np.testing.assert_array_equal(asked["rays"].near, np.full(shape, 0.88, np.float32))
  np.testing.assert_array_equal(asked["rays"].far, np.full(shape, 1.12, np.float32))


def test_a_picture_is_rendered_with_the_evaluations_samples_and_nothing_random(asked, key):
  method = published(pigan, "celeba")
  latents, cameras = method.sample_latents(key, 2), method.sample_cameras(key, 2)
  picture = method.render(method.init_generator(key), Scene(latents, cameras), resolution=4)
  np.testing.assert_array_equal(picture.rgb, GREY)
  assert jax.tree.leaves(asked["draws"]) == []
  assert (asked["sampler"].coarse, asked["sampler"].fine) == (5, 5)
  assert asked["compositor"].last_back
  assert asked["gradient"]
  method.render(method.init_generator(key), Scene(latents, cameras), resolution=4, key=key)
  assert asked["draws"].jitter.shape == (2, 16, 5)
  assert asked["draws"].noise is None


def test_training_shades_by_the_ratio_of_the_step_and_inference_in_full(asked, key):
  method = published(shadegan, "celeba")
  params = method.init_generator(key)
  stage, anneals = method.plan(5500)
  albedo, normals = jnp.full((1, 3), 0.6), jnp.array([[0.0, 0.6, 0.8]])
  light = Lights(jnp.array([[-0.4, 0.2, 0.3, 0.5]]))

  def shading(ratio):
    return lambertian(albedo, normals, light, ratio=ratio)[0]

  method.generate(params, key, traced(anneals), stage=stage)
  np.testing.assert_allclose(asked["compositor"].shader(albedo, normals, light)[0], shading(0.25), rtol=1e-5)
  lights = method.training_scene(key, stage.batch_size).lights
  np.testing.assert_array_equal(asked["lights"].code, lights.code)
  assert asked["gradient"]
  method.render(params, Scene(method.sample_latents(key, 2), method.sample_cameras(key, 2)), resolution=4)
  np.testing.assert_allclose(asked["compositor"].shader(albedo, normals, light)[0], shading(1.0), rtol=1e-5)
  np.testing.assert_allclose(asked["lights"].code, np.tile(np.float32([0.17, 0.42, 0, 0]), (2, 1)))
  assert asked["window"] is None


def test_tracked_steps_sample_the_window_around_what_the_network_predicts(asked, key):
  method = published(shadegan, "celeba")
  params = method.init_generator(key)
  stage, anneals = method.plan(30_000)
  assert stage.tracked
  fakes = method.generate(params, key, traced(anneals), stage=stage)
  scene = method.training_scene(key, stage.batch_size)
  latents, cameras = scene.latents, scene.cameras
  relative = method.predict_surface(params, method.generator.codes(params, latents), cameras)
  distance = relative_to_distance(relative, near=0.88, far=1.12, resolution=stage.resolution)
  np.testing.assert_allclose(asked["window"].centre.reshape(distance.shape), distance, rtol=1e-6)
  assert float(asked["window"].width) == pytest.approx(anneals["window_width"])
  assert asked["sampler"].coarse == stage.samples
  np.testing.assert_allclose(fakes.aux["predicted"], relative)
  np.testing.assert_array_equal(fakes.aux["rendered"], 1.0)
  # Relative to [near, far] the rendered distance 1 is a half, and the loss compares maps that run from -1 to 1.
  loss = method.extra_losses(params, fakes)["tracking"]
  np.testing.assert_allclose(loss, np.mean(np.abs(2 * np.asarray(relative) - 1)), rtol=1e-4)
  method.generate(params, key, traced(anneals), stage=method.plan(4000)[0])
  assert asked["window"] is None
