"""What the SIREN methods ask of the renderer, in training and at inference, with and without surface tracking.

Which key draws what, and which angle goes where, is written out here and not asked of the method itself.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, gof_shaded, graf, pigan, shadegan
from shapegan_jax.geometry.cameras import to_polar
from shapegan_jax.geometry.pixels import draw_patches, patch_points, read_patches
from shapegan_jax.methods.base import sample_scene
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan.renderer import Renderer
from shapegan_jax.networks.surface_net import relative_to_distance
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.rng import stream
from shapegan_jax.types import Lights, Rendering, Scene

GREY = 0.75


def published(module, preset):
  config = common.shrink(module.get_config(preset))
  config.stages.samples = tuple(8 for _ in config.stages.samples)
  config.rendering.eval_samples = 5
  return build(config.to_dict())


@pytest.fixture
def asked(monkeypatch):
  """The renderer that was called last, and its arguments; nothing is rendered."""
  last = {}

  def call(self, params, codes, cameras, rays, lights=None, *, key=None, noise_std=None, window=None):
    batch, n = rays.near.shape
    last.clear()
    last.update(vars(self))
    noise = self.sampler.draw(key, (batch, n), noise_std=noise_std)
    last.update(codes=codes, cameras=cameras, rays=rays, lights=lights, window=window, noise=noise, key=key)
    last["noise_std"] = noise_std
    shape = (batch, int(n**0.5), int(n**0.5))
    extras = {"root": jnp.ones(shape), "found": jnp.ones(shape, bool)}
    return Rendering(rgb=jnp.full((*shape, 3), GREY), distance=jnp.ones(shape), extras=extras)

  monkeypatch.setattr(Renderer, "__call__", call)
  return last


def traced(anneals, **others):
  return {name: jnp.float32(value) for name, value in (anneals | others).items()}


def drawn(method, key, n):
  """Latents, cameras and lights, each by the stream of its own name."""
  yaw, pitch = method.cameras.pose_prior().sample(stream(key, "cameras"), (n,))
  latents = jax.random.normal(stream(key, "latents"), (n, method.generator.latent_dim))
  return latents, yaw, pitch, method.lighting.prior.sample(stream(key, "lights"), (n,))


@pytest.mark.parametrize("draw", ["training_scene", "sample_scene"])
def test_latents_poses_and_lights_are_drawn_by_streams_of_their_own(draw, key):
  method = published(shadegan, "celeba")
  scene = method.training_scene(key, 3) if draw == "training_scene" else sample_scene(method, key, 3)
  latents, yaw, pitch, lights = drawn(method, key, 3)
  np.testing.assert_array_equal(scene.latents, latents)
  np.testing.assert_array_equal(scene.cameras.yaw, yaw)
  np.testing.assert_array_equal(scene.cameras.pitch, pitch)
  np.testing.assert_array_equal(scene.lights.code, lights.code)


METHODS = {
  "pigan": (pigan, "celeba"),
  "shadegan": (shadegan, "celeba"),
  "gof": (gof_shaded, "smoke"),
  "graf": (graf, "celeba"),
}


def built(name):
  """The method without the terms that need what a renderer would find."""
  method = published(*METHODS[name])
  if name != "gof":
    return method
  return dataclasses.replace(method, regularisers=dataclasses.replace(method.regularisers, opacity=0.0, normal=0.0))


def assert_scene(asked, method, params, latents, cameras, lights):
  """The renderer was given these instances, each with its own camera and light."""
  for found, expected in zip(asked["codes"], method.generator.codes(params, latents), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, asked["cameras"], cameras)
  np.testing.assert_allclose(asked["rays"].origins[:, 0], cameras.cam2world[:, :3, 3], atol=1e-6)
  assert (asked["lights"] is None) == (lights is None)
  if lights is not None:
    np.testing.assert_array_equal(asked["lights"].code, lights.code)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_on_the_latents_cameras_and_lights_of_its_streams(asked, key, name):
  method = built(name)
  params, n = method.init_generator(key), 4
  stage, anneals = method.plan(0)
  method.generate(params, key, traced(anneals), stage=dataclasses.replace(stage, batch_size=n))
  latents = jax.random.normal(stream(key, "latents"), (n, method.generator.latent_dim))
  cameras = method.cameras.sample(stream(key, "cameras"), n)
  lights = method.lighting.prior.sample(stream(key, "lights"), (n,)) if name in ("shadegan", "gof") else None
  assert_scene(asked, method, params, latents, cameras, lights)
  assert (jax.random.key_data(asked["key"]) == jax.random.key_data(stream(key, "samples"))).all()


@pytest.mark.parametrize(("name", "how"), [*((name, "render") for name in METHODS), ("gof", "render_surface")])
def test_each_method_draws_the_scene_that_it_is_given(asked, key, name, how):
  method = built(name)
  params = method.init_generator(key)
  scene = sample_scene(method, jax.random.key(5), 3)
  getattr(method, how)(params, scene, resolution=4)
  assert_scene(asked, method, params, scene.latents, scene.cameras, scene.lights)
  assert asked["key"] is None
  assert asked["noise_std"] is None


def test_fake_and_real_patches_lie_where_their_own_keys_and_the_schedule_say(asked, key):
  method = built("graf")
  stage, anneals = method.plan(150_000)
  stage, size = dataclasses.replace(stage, batch_size=64), method.patches.size
  least = anneals["patch_scale_min"]
  assert 0.25 < least < 0.5
  method.generate(method.init_generator(key), key, traced(anneals), stage=stage)
  lines = draw_patches(stream(key, "patches"), 64, size, min_scale=least)
  points = patch_points(*lines, stage.resolution, stage.resolution, align="left").reshape(64, -1, 2)
  rays, cameras = asked["rays"], asked["cameras"]
  local = jnp.einsum("bji,bnj->bni", cameras.cam2world[:, :3, :3], rays.directions, precision="highest")
  found = local[..., :2] / (-local[..., 2:] * jnp.tan(cameras.fov / 2)[:, None, None])
  np.testing.assert_allclose(found, points, atol=1e-4)
  image = jax.random.uniform(key, (64, 8, 8, 3))
  real = method.real_images(image, jax.random.key(6), traced(anneals), stage=stage)
  np.testing.assert_allclose(real, read_patches(image, *draw_patches(jax.random.key(6), 64, size, min_scale=least)))


def test_a_training_batch_is_rendered_with_the_stages_samples_noise_and_random_draws(asked, key):
  method = published(pigan, "celeba")  # its evaluation alone gives the rest of a ray to the last sample
  params = method.init_generator(key)
  stage, anneals = method.plan(1250)
  assert anneals["density_noise"] == 0.75
  fakes = method.generate(params, key, traced(anneals), stage=stage)
  np.testing.assert_allclose(fakes.image, 2 * GREY - 1)
  n = stage.batch_size
  latents = jax.random.normal(stream(key, "latents"), (n, method.generator.latent_dim))
  yaw, pitch = method.cameras.pose_prior().sample(stream(key, "cameras"), (n,))
  np.testing.assert_array_equal(fakes.latents, latents)
  np.testing.assert_array_equal(fakes.pose, np.stack([pitch, yaw], -1))
  # The camera is where its angles say: to +x by yaw, up by pitch.
  place = np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], -1)
  np.testing.assert_allclose(asked["cameras"].cam2world[:, :3, 3], place, atol=1e-6)
  np.testing.assert_allclose(asked["rays"].origins, np.repeat(place[:, None], stage.resolution**2, 1), atol=1e-6)
  frequencies = method.generator.mapping.apply({"params": params["mapping"]}, latents)[0]
  np.testing.assert_allclose(asked["codes"][0], frequencies, rtol=1e-5)
  assert jnp.all(jax.random.key_data(asked["key"]) == jax.random.key_data(stream(key, "samples")))
  noise, shape = asked["noise"], (n, stage.resolution**2)
  assert noise.jitter.shape == noise.fine.shape == (*shape, 8)
  assert noise.raw.shape == (*shape, 16)
  assert np.std(noise.raw) == pytest.approx(0.75, rel=0.1)
  assert np.std(noise.coarse_raw) == pytest.approx(0.75, rel=0.1)
  assert (asked["sampler"].coarse, asked["sampler"].fine, asked["sampler"].last) == (8, 8, "published")
  assert not asked["compositor"].last_back
  np.testing.assert_array_equal(asked["rays"].near, np.full(shape, 0.88, np.float32))
  np.testing.assert_array_equal(asked["rays"].far, np.full(shape, 1.12, np.float32))


def test_a_picture_is_rendered_with_the_evaluations_samples_and_nothing_random(asked, key):
  method = published(pigan, "celeba")
  scene = Scene(method.sample_latents(key, 2), method.sample_cameras(key, 2))
  picture = method.render(method.init_generator(key), scene, resolution=4)
  np.testing.assert_array_equal(picture.rgb, GREY)
  assert jax.tree.leaves(asked["noise"]) == []
  assert (asked["sampler"].coarse, asked["sampler"].fine) == (5, 5)
  assert asked["compositor"].last_back
  assert asked["gradient"]
  method.render(method.init_generator(key), scene, resolution=4, key=key)
  assert asked["noise"].jitter.shape == (2, 16, 5)
  assert asked["noise"].raw is None


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
  lights = drawn(method, key, stage.batch_size)[3]
  np.testing.assert_array_equal(asked["lights"].code, lights.code)
  assert asked["gradient"]
  method.render(params, Scene(method.sample_latents(key, 2), method.sample_cameras(key, 2)), resolution=4)
  np.testing.assert_allclose(asked["compositor"].shader(albedo, normals, light)[0], shading(1.0), rtol=1e-5)
  np.testing.assert_allclose(asked["lights"].code, np.tile(np.float32([0.17, 0.42, 0, 0]), (2, 1)))
  assert asked["window"] is None


def foreseen(method, params, codes, yaw, pitch):
  """The surface network asked as the authors' code does: codes / 10, and ten times the polar angles about pi/2."""
  pose = 10 * (np.stack(to_polar(yaw, pitch), -1) - np.pi / 2)
  flat = np.concatenate(codes, -1) / 10
  return method.surface_net.apply({"params": params["surface"]}, jnp.asarray(flat), jnp.asarray(pose))


def test_the_surface_network_is_told_pitch_as_pitch_and_yaw_as_yaw(key):
  method = published(shadegan, "celeba")
  params = method.init_generator(key)
  codes = method.generator.codes(params, method.sample_latents(key, 2))
  cameras = method.cameras_at(jnp.array([0.3, -0.2]), jnp.array([0.05, 0.1]))
  expected = foreseen(method, params, codes, cameras.yaw, cameras.pitch)
  np.testing.assert_allclose(method.predict_surface(params, codes, cameras), expected, atol=1e-5)
  swapped = foreseen(method, params, codes, cameras.pitch, cameras.yaw)
  assert np.abs(expected - swapped).max() > 1e-4, "the two can be told apart"


def test_tracked_steps_sample_the_window_around_what_the_network_predicts(asked, key):
  method = published(shadegan, "celeba")
  params = method.init_generator(key)
  stage, anneals = method.plan(30_000)
  assert stage.tracked
  fakes = method.generate(params, key, traced(anneals), stage=stage)
  latents, yaw, pitch, _ = drawn(method, key, stage.batch_size)
  relative = foreseen(method, params, method.generator.codes(params, latents), yaw, pitch)
  distance = relative_to_distance(relative, near=0.88, far=1.12, resolution=stage.resolution)
  np.testing.assert_allclose(asked["window"].centre.reshape(distance.shape), distance, rtol=1e-5)
  assert float(asked["window"].width) == pytest.approx(anneals["window_width"])
  assert asked["sampler"].coarse == stage.samples
  np.testing.assert_allclose(fakes.aux["predicted"], relative, atol=1e-5)
  np.testing.assert_array_equal(fakes.aux["rendered"], 1.0)
  # Relative to [near, far] the rendered distance 1 is a half, and the loss compares maps that run from -1 to 1.
  loss = method.extra_losses(params, fakes)["tracking"]
  np.testing.assert_allclose(loss, np.mean(np.abs(2 * np.asarray(relative) - 1)), rtol=1e-4)
  method.generate(params, key, traced(anneals), stage=method.plan(4000)[0])
  assert asked["window"] is None


def test_the_surface_network_learns_from_the_distance_alone_and_not_from_where_its_window_lies(asked, key):
  method = published(shadegan, "celeba")
  params = method.init_generator(key)
  stage, anneals = method.plan(30_000)

  @jax.jit
  @jax.grad
  def both(surface, share):
    fakes = method.generate({**params, "surface": surface}, key, traced(anneals), stage=stage)
    return share * jnp.sum(asked["window"].centre ** 2) + (1 - share) * jnp.sum(fakes.aux["predicted"] ** 2)

  for share, learns in ((1.0, False), (0.0, True)):
    gradient = both(params["surface"], share)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient)) == learns


def test_inference_by_tracking_samples_the_narrowest_window(asked, key):
  method = published(shadegan, "celeba")
  method = dataclasses.replace(method, tracking=dataclasses.replace(method.tracking, inference=True))
  params = method.init_generator(key)
  cameras = method.cameras_at(jnp.array([0.3, -0.2]), jnp.array([0.05, 0.1]))
  latents = method.sample_latents(key, 2)
  method.render(params, Scene(latents, cameras), resolution=8)
  relative = foreseen(method, params, method.generator.codes(params, latents), cameras.yaw, cameras.pitch)
  distance = relative_to_distance(relative, near=0.88, far=1.12, resolution=8)
  np.testing.assert_allclose(asked["window"].centre.reshape(distance.shape), distance, rtol=1e-5)
  assert float(asked["window"].width) == pytest.approx(method.tracking.width[1])
