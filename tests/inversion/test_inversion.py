"""Inversion and its encoder, on generators that nothing has trained: laws that hold for any of them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, pigan, shadegan
from shapegan_jax.errors import UserError
from shapegan_jax.fitting import FitConfig
from shapegan_jax.inversion import encoder as encoders
from shapegan_jax.inversion.encoder import EncoderConfig, read_encoder, train_encoder
from shapegan_jax.inversion.latent_space import Point, fingerprint, measure
from shapegan_jax.inversion.optimization import InversionConfig, InversionStage, Inverter, psnr
from shapegan_jax.methods.catalog import build
from shapegan_jax.metrics.pose import pose_error_deg
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Codes, Lights


def generator(module) -> Model:
  """Random weights; pictures of 8 pixels. Colours are made stronger, so that poses can be told apart."""
  config = common.shrink(module.get_config("heads"))
  config.stages.resolution = tuple(8 for _ in config.stages.resolution)
  config.rendering.eval_samples = 6
  method = build(config.to_dict())
  params = method.init_generator(jax.random.key(0))
  params["field"]["color_head"]["kernel"] = 8 * params["field"]["color_head"]["kernel"]
  return Model(method, params, config.to_dict())


@pytest.fixture(scope="module")
def model() -> Model:
  return generator(shadegan)


@pytest.fixture(scope="module")
def space(model):
  return measure(model.method, model.params)


def test_the_space_has_mean_zero_and_deviation_one_over_the_priors(model, space):
  n = 2048
  codes = model.codes(model.sample_latents(n, jax.random.key(5)))
  point = space.point(codes, model.sample_cameras(n, jax.random.key(5)), model.sample_lights(n, jax.random.key(5)))
  for values, size in ((point.codes, 8 * 2), (point.pose, 2), (point.light, 4)):
    assert values.shape[1] <= size
    # Other samples, as many as the statistics are of: both err by about 1/sqrt(2048).
    np.testing.assert_allclose(np.mean(values, 0), 0.0, atol=0.12)
    kept = np.std(values, 0)
    # The lights' covariance has one direction of almost no variance, of which no more can be asked.
    np.testing.assert_allclose(kept[kept > 0.1], 1.0, atol=0.12)
  np.testing.assert_allclose(np.cov(point.codes, rowvar=False), np.eye(point.codes.shape[1]), atol=0.2)


def test_points_and_what_they_stand_for_are_each_others_inverse(model, space, rng):
  n, axes = 3, space.code_axes[0].shape[0]
  draw = lambda size: jnp.asarray(rng.standard_normal((n, size)), jnp.float32)  # noqa: E731
  light = draw(4).at[:, 0].set(0.0) @ jnp.eye(4)
  point = Point(draw(axes), draw(2), light)
  yaw, pitch = space.angles(point)
  codes, cameras, lights = space.codes(point), model.cameras_at(yaw, pitch), space.lights(point)
  again = space.point(codes, cameras, lights)
  np.testing.assert_allclose(again.codes, point.codes, atol=1e-3)
  np.testing.assert_allclose(again.pose, point.pose, atol=1e-4)
  np.testing.assert_allclose(space.lights(again).code, lights.code, atol=1e-4)
  centre = space.centre(2)
  for values, mean in zip(space.codes(centre).values, space.code_means, strict=True):
    np.testing.assert_allclose(values, np.stack([mean] * 2))


def test_a_prior_of_one_pose_is_never_left():
  config = common.shrink(pigan.get_config("heads"))
  config.cameras.update(yaw=(0.3, 0.0), pitch=(-0.1, 0.0))
  method = build(config.to_dict())
  space = measure(method, method.init_generator(jax.random.key(0)))
  point = space.point(
    Codes(tuple(m[None] for m in space.code_means)), method.cameras_at(jnp.ones(1), jnp.ones(1)), None
  )
  assert point.light is None
  assert space.lights(point) is None
  np.testing.assert_allclose(jnp.stack(space.angles(dataclasses.replace(point, pose=point.pose + 3))), [[0.3], [-0.1]])


def test_a_fingerprint_names_the_parameters_whatever_their_precision():
  params = {"a": {"b": jnp.array([0.1, 0.2])}, "c": jnp.array([[1.0, 2.0]])}
  half = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), params)
  assert fingerprint(half) == fingerprint(params)
  others = [
    {**params, "c": jnp.array([[1.0, 2.1]])},
    {**params, "c": jnp.array([1.0, 2.0])},
    {"a": {"d": params["a"]["b"]}, "c": params["c"]},
  ]
  assert len({fingerprint(other) for other in [params, *others]}) == 4


def test_pose_errors_are_angles_between_directions():
  angles = np.radians([[0, 0, 30, 0], [10, 20, 10, 25], [0, 89, 180, 89]])
  np.testing.assert_allclose(pose_error_deg(*angles.T), [30, 5, 2], atol=1e-4)
  # At a pitch of 60 degrees a yaw counts about half.
  assert 0.9 < pose_error_deg(*np.radians([[0.0], [60.0], [2.0], [60.0]]))[0] < 1.01


def test_psnr_is_twenty_decibels_at_a_tenth():
  a = np.full((2, 3, 3, 3), 0.5)
  np.testing.assert_allclose(psnr(np.stack([a[0] + 0.1, a[1]]), a), [20, 120])


HELD = InversionConfig(yaws=(-1.0, 1.0), stages=(InversionStage(1, 20), InversionStage(1, 50)), samples=6, prior=0.01)
"""The regulariser all but holds codes and light at their means: the pose alone is looked for."""


@pytest.fixture(scope="module")
def inverter(model) -> Inverter:
  return Inverter(model, HELD)


@pytest.fixture(scope="module")
def drawn(model, space):
  """Two pictures of the mean code under the mean light, from known poses."""
  point = dataclasses.replace(space.centre(2), pose=jnp.array([[1.4, 0.6], [-0.7, -0.8]]))
  cameras = model.cameras_at(*space.angles(point))
  return cameras, np.asarray(model.render(space.codes(point), cameras, space.lights(point)).rgb)


@pytest.fixture(scope="module")
def found(inverter, drawn):
  steps = []
  return inverter(drawn[1], progress=steps.append), steps


def test_the_pose_is_found_by_gradients_from_the_better_start(found, drawn):
  (result, steps), (cameras, _) = found, drawn
  assert sum(steps) == 70
  errors = pose_error_deg(result.cameras.yaw, result.cameras.pitch, cameras.yaw, cameras.pitch)
  assert errors.max() < 1.0, errors
  assert result.psnr.min() > 35, result.psnr


def test_each_photograph_goes_on_from_its_own_best_start(inverter, drawn, monkeypatch):
  begun = []

  def stage(point, pictures, stage, progress):
    begun.append((point, pictures))
    # Of the four searches from (yaw -1, picture 0), (-1, 1), (1, 0), (1, 1).
    return point, np.array([3.0, 1.0, 2.0, 5.0]), np.zeros((stage.steps, len(pictures)))

  monkeypatch.setattr(inverter, "_stage", stage)
  inverter(drawn[1])
  (first, twice), (second, once) = begun
  np.testing.assert_array_equal(first.pose[:, 0], [-1, -1, 1, 1])
  np.testing.assert_array_equal(twice, np.concatenate([drawn[1], drawn[1]]))
  np.testing.assert_array_equal(second.pose[:, 0], [1, -1])
  np.testing.assert_array_equal(once, drawn[1])


def test_what_is_returned_is_the_best_that_was_seen(found, model, space, drawn):
  result, _ = found
  assert result.losses.shape == (50, 2)
  point = space.point(result.codes, result.cameras, result.lights)
  prior = HELD.prior * (np.sum(point.codes**2, -1) + np.sum(point.light**2, -1))
  # The very iterate whose loss was the least, to rounding: one step later it differs by more.
  np.testing.assert_allclose(result.losses.min(0), 10 ** (-result.psnr / 10) + prior, rtol=3e-4)
  again = model.render(result.codes, result.cameras, result.lights)
  np.testing.assert_allclose(psnr(np.asarray(again.rgb), drawn[1]), result.psnr, rtol=1e-5)


def test_photographs_do_not_touch_each_other_and_the_answer_is_always_the_same(found, inverter, drawn):
  result, _ = found
  swapped = inverter(drawn[1][::-1])
  for a, b in zip(jax.tree.leaves(result.codes), jax.tree.leaves(swapped.codes), strict=True):
    np.testing.assert_array_equal(a, b[::-1])
  np.testing.assert_array_equal(result.cameras.yaw, swapped.cameras.yaw[::-1])
  np.testing.assert_array_equal(result.losses, swapped.losses[:, ::-1])


def test_codes_and_light_move_where_the_regulariser_lets_them(model, space, inverter, monkeypatch):
  # Everything that differs from HELD is no constant of the compiled program, which is used again.
  config = dataclasses.replace(HELD, yaws=(0.0,), prior=1e-6, stages=(InversionStage(1, 80),))
  monkeypatch.setattr(inverter, "config", config)
  lights = Lights(space.light_mean[None] + jnp.array([[0.1, -0.1, 0.6, -0.5], [0.0, 0.0, -0.6, 0.2]]))
  codes = model.codes(model.sample_latents(2, jax.random.key(8)))
  target = np.asarray(model.render(codes, model.central_cameras(2), lights).rgb)
  result = inverter(target)
  centre = space.centre(2)
  mean = model.render(space.codes(centre), model.central_cameras(2), space.lights(centre)).rgb
  assert (result.psnr > psnr(np.asarray(mean), target) + 10).all(), result.psnr
  assert result.losses.shape == (0, 2)  # the only stage is the search
  cosines = jnp.sum(result.lights.direction * lights.direction, -1)
  before = jnp.sum(space.lights(centre).direction * lights.direction, -1)
  assert (jnp.arccos(cosines) < 0.4 * jnp.arccos(before)).all(), (cosines, before)


def test_a_length_is_shared_among_the_stages():
  config = InversionConfig()
  assert config.lasting(config.total_steps) == config
  assert [stage.steps for stage in config.lasting(42).stages] == [10, 20, 12]
  assert min(stage.steps for stage in config.lasting(2).stages) == 1


def test_pictures_of_another_size_are_a_mistake_of_the_caller(inverter):
  with pytest.raises(ValueError, match="8 needed"):
    inverter(np.ones((1, 16, 16, 3), np.float32))


def test_the_perceptual_term_says_what_it_needs(model):
  with pytest.raises(UserError, match="smaller than 32 pixels"):
    Inverter(model, InversionConfig(perceptual=0.1))


FIT = FitConfig(steps=200, rate=3e-3)
ENCODER = EncoderConfig(samples=256, resolution=8, batch=16, width=8)


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
  """(encoder, workdir)."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encoders, "_CHUNK", 32)
    workdir = tmp_path_factory.mktemp("encoder")
    yield train_encoder(model, workdir, ENCODER, FIT), workdir


def test_an_encoder_learns_and_is_read_again(trained, model, drawn, tmp_path):
  encoder, _ = trained
  assert encoder.numbers["light_variance_explained"] > 0.2, encoder.numbers
  encoder.save(tmp_path / "encoder.safetensors")
  again = read_encoder(tmp_path / "encoder.safetensors", model)
  assert again.numbers == encoder.numbers
  for a, b in zip(jax.tree.leaves(encoder(drawn[1], model)), jax.tree.leaves(again(drawn[1], model)), strict=True):
    np.testing.assert_array_equal(a, b)
  codes, cameras, lights = again(drawn[1], model)
  assert [values.shape for values in codes.values] == [values.shape for values in model.codes(jnp.zeros((2, 8))).values]
  assert (cameras.yaw.shape, lights.code.shape) == ((2,), (2, 4))


def test_targets_are_what_the_pictures_were_drawn_with(trained, model, space):
  """The scales turn the standardised truth back into the very codes, poses and lights."""
  encoder, workdir = trained
  pool = dict(np.load(sorted((workdir / "pool").glob("*.npz"))[0]))
  targets = encoders._targets(model, pool, encoder.scales)
  answer = tuple(jnp.asarray(targets[name], jnp.float32) for name in ("codes", "pose", "light"))
  codes, cameras, lights = encoder._read(answer, model)
  np.testing.assert_allclose(np.stack([cameras.yaw, cameras.pitch], -1), pool["pose"], atol=1e-6)
  np.testing.assert_allclose(lights.code, pool["light"], atol=1e-6)
  rgb = model.render(codes, cameras, lights, resolution=8).rgb
  np.testing.assert_allclose(np.asarray(rgb), pool["images"] / 255, atol=0.51 / 255 + 1e-4)
  for values in targets.values():
    assert 0.5 < np.std(values) < 1.5


def test_each_chunk_of_the_pool_has_streams_of_its_own(trained, model):
  _, workdir = trained
  for index, path in enumerate(sorted((workdir / "pool").glob("*.npz"))[:2]):
    key, pool = stream(root_key(ENCODER.seed), "encoder pool", index), dict(np.load(path))
    latents, cameras, lights = (stream(stream(key, name), name) for name in ("latents", "cameras", "lights"))
    np.testing.assert_array_equal(pool["latents"], jax.random.normal(latents, (32, 8)))
    angles = model.method.cameras.pose_prior().sample(cameras, (32,))
    np.testing.assert_allclose(pool["pose"], np.stack(angles, -1), atol=1e-6)
    np.testing.assert_allclose(pool["light"], model.method.lighting.prior.sample(lights, (32,)).code, atol=1e-6)


def test_an_encoder_is_judged_by_the_chunk_it_has_not_seen(trained, model):
  encoder, workdir = trained
  pool = dict(np.load(sorted((workdir / "pool").glob("*.npz"))[-1]))
  _, cameras, lights = encoder(pool["images"] / np.float32(255), model)
  errors = pose_error_deg(cameras.yaw, cameras.pitch, *pool["pose"].T)
  np.testing.assert_allclose(encoder.numbers["pose_error_deg"], np.median(errors), rtol=1e-3)
  missed = np.mean(((lights.code - pool["light"]) / encoder.scales["light_deviation"][None]) ** 2)
  np.testing.assert_allclose(encoder.numbers["light_variance_explained"], 1 - missed, rtol=1e-3)


def test_training_goes_on_with_what_was_drawn_and_draws_damaged_chunks_again(trained, model, monkeypatch):
  encoder, workdir = trained
  chunks = sorted((workdir / "pool").glob("*.npz"))
  assert len(chunks) == 8
  whole = dict(np.load(chunks[1]))
  chunks[1].write_bytes(chunks[1].read_bytes()[:100])
  asked = []
  render = Model.render
  monkeypatch.setattr(Model, "render", lambda *a, **k: asked.append(1) or render(*a, **k))
  again = train_encoder(model, workdir, ENCODER, FIT)
  assert len(asked) == 2  # of 16 pictures each
  mended = dict(np.load(chunks[1]))
  for name, values in whole.items():
    np.testing.assert_array_equal(values, mended[name])
  assert again.numbers == encoder.numbers  # the checkpoint was the last: nothing was trained again


def test_an_encoder_fits_one_model_and_a_workdir_one_encoder(trained, model, tmp_path):
  encoder, workdir = trained
  encoder.save(tmp_path / "encoder.safetensors")
  params = {**model.params, "mapping": jax.tree.map(lambda x: 1.1 * x, model.params["mapping"])}
  other = dataclasses.replace(model, params=params)
  with pytest.raises(UserError, match="of another model"):
    read_encoder(tmp_path / "encoder.safetensors", other)
  with pytest.raises(UserError, match="made with another config: model"):
    train_encoder(other, workdir, ENCODER, FIT)
  model.save(tmp_path / "model.safetensors")
  with pytest.raises(UserError, match="is not an encoder"):
    read_encoder(tmp_path / "model.safetensors", model)
  with pytest.raises(UserError, match="no such file"):
    read_encoder(tmp_path / "absent.safetensors", model)
