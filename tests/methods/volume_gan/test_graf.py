"""GRAF: patches, cameras and training, made small by `configs.common.shrink`."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import ToyMethod

from configs import common, graf
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan.graf import PatchConfig
from shapegan_jax.methods.volume_gan.settings import Averages, Optimizers
from shapegan_jax.model import Model
from shapegan_jax.rendering.volume import points_at
from shapegan_jax.tools.disentangle import disentanglement_grid
from shapegan_jax.types import Scene


def small(preset, **sections):
  config = common.shrink(graf.get_config(preset)).to_dict()
  for name, values in sections.items():
    config[name].update(values)
  return build(config)


@pytest.fixture(scope="module")
def method():
  return small("heads")


@pytest.fixture(scope="module")
def params(method):
  return method.init_generator(jax.random.key(0))


def traced(anneals):
  return {name: jnp.asarray(value, jnp.float32) for name, value in anneals.items()}


@pytest.fixture(scope="module")
def stepped():
  """(method, state before, state after, metrics) of one step of the published kind."""
  method = small("carla")
  stage, anneals = method.plan(0)
  image = np.random.default_rng(0).uniform(-1, 1, (4, stage.resolution, stage.resolution, 3)).astype(np.float32)
  before = method.init(jax.random.key(0))
  step = jax.jit(method.update, static_argnames="stage")
  after, metrics = step(before, {"image": image}, jax.random.key(1), traced(anneals), stage=stage)
  return method, before, after, metrics


def test_a_step_moves_every_parameter_and_reports_finite_losses(stepped):
  _, before, after, metrics = stepped
  assert all(np.isfinite(float(value)) for value in metrics.values())
  assert {"disc/r1", "gen/generator"} <= set(metrics)
  assert not {"disc/pose", "gen/pose"} & set(metrics)
  for name in ("gen_params", "disc_params"):
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), getattr(before, name), getattr(after, name))
    assert all(jax.tree.leaves(moved)), moved


def test_the_spectral_vectors_advance_once_an_update_and_with_the_old_kernels(stepped):
  method, before, after, _ = stepped
  expected = method.advance_discriminator(before.disc_params, before.disc_extra)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.disc_extra, expected)
  first, now = (state.disc_extra["spectral"]["layers_0"]["u"] for state in (before, after))
  assert np.abs(first - now).max() > 1e-3


def test_the_published_average_has_no_warm_up(stepped):
  _, before, after, _ = stepped
  old, new, average = (jax.tree.leaves(tree) for tree in (before.gen_params, after.gen_params, after.ema_params))
  for a, b, ema in zip(old, new, average, strict=True):
    np.testing.assert_allclose(ema, 0.999 * a + 0.001 * b, atol=1e-7)
  assert Averages().warmup


def test_the_first_step_of_rmsprop_is_ten_times_the_sign(stepped):
  """g / (sqrt(0.01 g^2) + 1e-8): no bias correction. The rate is 5e-4."""
  _, before, after, _ = stepped
  a, b = (state.gen_params["field"]["color_head"]["bias"] for state in (before, after))
  np.testing.assert_allclose(np.abs(b - a), 5e-3, rtol=1e-3)


def test_rmsprop_is_its_formula(method):
  published = Optimizers(kind="rmsprop", alpha=0.9, clip=0.0, discriminator_clip=0.5)
  plain, clipped = dataclasses.replace(method, optimizers=published)._optimizers()
  gradients = [jnp.array([3.0, -4.0]), jnp.array([0.0, 1e-3])]
  for optimizer, clip in ((plain, math.inf), (clipped, 0.5)):
    state, square = optimizer.init(gradients[0]), np.zeros(2)
    for gradient in gradients:
      update, state = optimizer.update(gradient, state)
      g = np.asarray(gradient, np.float64) * min(1.0, clip / np.linalg.norm(gradient))
      square = 0.9 * square + 0.1 * g**2
      np.testing.assert_allclose(update, g / (np.sqrt(square) + 1e-8), rtol=1e-5)


def test_the_least_scale_follows_the_published_schedule():
  patches = PatchConfig()
  assert [patches.min_scale_at(step) for step in (0, 999, 14_999)] == [0.9] * 3
  assert patches.min_scale_at(15_000) == pytest.approx(math.exp(-0.1125))
  assert patches.min_scale_at(100_999) == pytest.approx(math.exp(-0.75))
  assert patches.min_scale_at(184_000) > 0.25
  assert patches.min_scale_at(185_000) == patches.min_scale_at(10**6) == 0.25


def test_the_published_rates_halve_three_times():
  method = build(graf.get_config("celeba").to_dict())
  rates = [method.plan(step)[1]["generator_rate"] for step in (0, 49_999, 50_000, 100_000, 200_000, 299_999)]
  np.testing.assert_allclose(rates, [5e-4, 5e-4, 2.5e-4, 1.25e-4, 6.25e-5, 6.25e-5])
  assert method.plan(0)[1]["density_noise"] == 1.0
  assert method.plan(5000)[1]["density_noise"] == 0.0
  assert method.plan(0)[1]["topk"] == method.plan(299_999)[1]["topk"] == 1.0


def test_r1_is_the_published_penalty(rng):
  """The authors' mean runs over all pixels of all patches: 10 sum |g|^2 / (patches x pixels)."""
  config = graf.get_config("cats")
  gradient = rng.standard_normal((8, 32, 32, 3))
  ours = 0.5 * config.objectives.r1 * np.mean(np.sum(gradient**2, (1, 2, 3)))
  published = 10 * np.mean(np.sum(gradient.reshape(-1, 3) ** 2, -1))
  assert gradient.shape[1] == config.patches.size
  np.testing.assert_allclose(ours, published, rtol=1e-12)


def test_r1_relaxes_where_it_is_told_to():
  method = build(graf.get_config("heads").to_dict())
  weights = [method.plan(step)[1]["r1"] for step in (0, 200, 450, 700, 1999)]
  np.testing.assert_allclose(weights, [1.0, 1.0, 0.525, 0.05, 0.05])
  large = build(graf.get_config("heads_large").to_dict())
  weights = [large.plan(step)[1]["r1"] for step in (0, 10_000, 35_000, 99_999)]
  np.testing.assert_allclose(weights, [1.0, 1.0, 0.05, 0.05])
  assert "r1" not in build(graf.get_config("celeba").to_dict()).plan(0)[1]


def test_the_penalty_has_the_weight_of_its_step(method):
  relaxing = dataclasses.replace(method, objectives=dataclasses.replace(method.objectives, r1=4.0, r1_ramp=(0, 0)))
  stage, anneals = relaxing.plan(0)
  size = (stage.batch_size, stage.resolution, stage.resolution, 3)
  batch = {"image": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size), jnp.float32)}
  step = jax.jit(lambda state, anneals: relaxing.update(state, batch, jax.random.key(1), anneals, stage=stage)[1])
  state = relaxing.init(jax.random.key(0))
  plain = traced({name: value for name, value in anneals.items() if name != "r1"})
  whole, half = step(state, plain)["disc/r1"], step(state, plain | {"r1": jnp.float32(2.0)})["disc/r1"]
  np.testing.assert_allclose(half, whole / 2, rtol=1e-4)


def test_rays_of_the_published_cameras_pass_the_points_of_long_directions():
  """x = o + z R (x tan, y tan, -1) with z from near to far, directions not normalised and scaled as NeRF does."""
  method = build(graf.get_config("carla").to_dict())
  cameras = method.sample_cameras(jax.random.key(0), 2)
  grid = np.asarray(pixel_grid(3, 4, align="left")).reshape(-1, 2)
  rays = method.cameras.cast(cameras, jnp.asarray(np.stack([grid, 0.5 * grid])))
  fractions = jnp.array([0.0, 0.3, 1.0])
  t = rays.near[..., None] * (1 - fractions)[None, None] + rays.far[..., None] * fractions[None, None]
  for b, scale in enumerate((1.0, 0.5)):
    long = np.concatenate([scale * grid * math.tan(math.radians(15)), -np.ones((12, 1))], -1)
    long = long @ np.asarray(cameras.cam2world[b, :3, :3], np.float64).T
    z = 7.5 + 5.0 * np.asarray(fractions)
    expected = np.asarray(cameras.cam2world[b, :3, 3]) + z[None, :, None] * long[:, None]
    np.testing.assert_allclose(points_at(rays, t)[b], expected, atol=2e-5)


def test_near_and_far_follow_a_camera_that_comes_closer():
  method = build(graf.get_config("celeba").to_dict())
  cameras = method.sample_cameras(jax.random.key(0), 500)
  radius = np.asarray(cameras.radius)
  assert 9.5 <= radius.min() < 9.52
  assert 10.48 < radius.max() <= 10.5
  np.testing.assert_allclose(np.linalg.norm(cameras.cam2world[:, :3, 3], axis=-1), radius, rtol=1e-5)
  rays = method.cameras.cast(cameras, jnp.zeros((500, 1, 2)))  # through the middle, where depth is distance
  np.testing.assert_allclose(rays.near[:, 0], 7.5 - (10.5 - radius), rtol=1e-5)
  np.testing.assert_allclose(rays.far[:, 0], 12.5 - (10.5 - radius), rtol=1e-5)
  assert np.degrees(cameras.yaw).min() >= -45.01
  assert np.degrees(cameras.yaw).max() <= 45.01
  pitch = np.degrees(cameras.pitch)
  assert 4.99 <= pitch.min() < 5.3
  assert 19.7 < pitch.max() <= 20.01


@pytest.fixture(scope="module")
def pictures(method, params):
  """(latents, cameras, the rendering at 8 pixels) of two instances."""
  latents, cameras = method.sample_latents(jax.random.key(1), 2), method.sample_cameras(jax.random.key(2), 2)
  return latents, cameras, jax.jit(partial(method.render, resolution=8))(params, Scene(latents, cameras))


def test_a_patch_at_full_scale_is_the_picture(method, params, pictures, monkeypatch):
  latents, cameras, whole = pictures
  monkeypatch.setattr(type(method), "training_scene", lambda *_: Scene(latents, cameras))
  monkeypatch.setattr(
    "shapegan_jax.methods.volume_gan.graf.stream", lambda key, name: None if name == "samples" else key
  )
  stage, anneals = method.plan(0)
  stage = dataclasses.replace(stage, batch_size=2, samples=method.eval_samples, resolution=8)
  anneals = traced({**anneals, "patch_scale_min": 1.0})
  fakes = jax.jit(partial(method.generate, stage=stage))(params, jax.random.key(3), anneals)
  np.testing.assert_allclose(fakes.image, 2 * whole.rgb - 1, atol=1e-4)
  assert np.std(whole.rgb) > 0.01


def test_normals_of_a_start_look_at_the_camera(pictures):
  _, cameras, whole = pictures
  solid = np.asarray(whole.acc) > 0.5
  towards = np.einsum("bhwi,bi->bhw", whole.normals, cameras.cam2world[:, :3, 2])
  assert solid.any()
  assert (towards[solid] > 0).mean() > 0.9


def test_codes_are_separate(method, params):
  """In the crossed latents columns share their density, and rows differ in colour alone."""
  latents = method.sample_latents(jax.random.key(1), 3)
  crossed = method.crossed_latents(latents)
  for i in range(3):
    np.testing.assert_array_equal(crossed[i, i], latents[i])
  points = jnp.broadcast_to(jax.random.uniform(jax.random.key(2), (1, 5, 3), minval=-0.05, maxval=0.05), (9, 5, 3))
  field = jax.jit(method.query)(params, crossed.reshape(9, -1), points)
  raw, color = np.asarray(field.raw).reshape(3, 3, 5), np.asarray(field.color).reshape(3, 3, 5, 3)
  np.testing.assert_allclose(raw, np.broadcast_to(raw[:1], raw.shape), rtol=1e-5)
  assert np.abs(raw[:, :1] - raw[:, 1:]).min() > 1e-4
  assert np.abs(color[:1] - color[1:]).max() > 1e-4


def test_truncation_zero_makes_all_latents_one(method, params):
  codes = method.generator.codes(params, method.sample_latents(jax.random.key(1), 3), truncation=0.0)
  assert not any(np.any(code) for code in codes)


def test_the_disentanglement_grid_has_a_cell_per_pair(method, params):
  model = Model(method, params, {})
  picture = disentanglement_grid(model, count=2, resolution=8)
  assert picture.dtype == np.uint8
  assert picture.shape == (2 * (64 + 2), 56 + 2 * (64 + 2), 3)
  with pytest.raises(UserError, match="only GRAF separates them"):
    disentanglement_grid(Model(ToyMethod(), {}, {}))


@pytest.mark.parametrize(
  ("section", "key", "value", "message"),
  [
    ("cameras", "align", "middle", "config.cameras.align: 'middle' is not one of corners, centres, left"),
    ("patches", "sise", 8, "config.patches.sise"),
    ("field", "widht", 8, "config.field.widht"),
    ("discriminator", "kind", "big", "config.discriminator.kind"),
  ],
)
def test_a_wrong_setting_is_named(section, key, value, message):
  with pytest.raises(UserError, match=message):
    small("heads", **{section: {key: value}})
