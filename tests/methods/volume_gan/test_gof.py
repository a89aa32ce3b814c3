"""GOF with a real (small) generator: its schedules, its losses, its surface, and its mixture with light."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, gof, gof_shaded
from shapegan_jax.errors import UserError
from shapegan_jax.methods.catalog import build
from shapegan_jax.model import Model
from shapegan_jax.types import FieldSamples, Scene


def small(config):
  return common.shrink(config).to_dict()


@pytest.fixture(scope="module")
def method():
  return build(small(gof_shaded.get_config("smoke")))


@pytest.fixture(scope="module")
def model(method):
  return Model(method, method.init_generator(jax.random.key(0)), {})


def test_the_region_contracts_and_the_prior_grows_as_published():
  bfm = build(gof.get_config("bfm").to_dict())

  def anneals(step):
    return bfm.plan(step)[1]

  np.testing.assert_allclose(anneals(0)["window_width"], 0.24)
  np.testing.assert_allclose(anneals(10_000)["window_width"], 0.24 * math.exp(-0.3))
  assert anneals(59_700)["window_width"] > 0.04
  assert anneals(59_800)["window_width"] == 0.04
  np.testing.assert_allclose(anneals(0)["opacity_weight"], 0.1)
  np.testing.assert_allclose(anneals(80_000)["opacity_weight"], 1.0)
  celeba = build(gof.get_config("celeba").to_dict())
  np.testing.assert_allclose(celeba.plan(200_000)[1]["opacity_weight"], 0.05 * math.e)
  assert "shading_ratio" not in anneals(0)


def test_a_step_reports_both_regularisers_and_moves_the_generator(method):
  stage, anneals = method.plan(0)
  traced = {name: jnp.float32(value) for name, value in anneals.items()}
  image = np.random.default_rng(0).uniform(-1, 1, (4, stage.resolution, stage.resolution, 3)).astype(np.float32)
  before = method.init(jax.random.key(0))
  step = jax.jit(method.update, static_argnames="stage")
  after, metrics = step(before, {"image": image}, jax.random.key(1), traced, stage=stage)
  assert {"gen/opacity", "gen/normal", "gen/generator"} <= set(metrics)
  assert all(np.isfinite(float(value)) for value in metrics.values())
  assert float(metrics["gen/opacity"]) > 0
  assert float(metrics["gen/normal"]) > 0
  heavier = traced | {"opacity_weight": 3 * traced["opacity_weight"]}
  _, more = step(before, {"image": image}, jax.random.key(1), heavier, stage=stage)
  np.testing.assert_allclose(more["gen/opacity"], 3 * metrics["gen/opacity"], rtol=1e-4)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.gen_params, after.gen_params)
  assert min(jax.tree.leaves(moved)) > 0


@dataclasses.dataclass(frozen=True)
class TiltedBalls:
  """raw = 60 (0.08 - |x|) (1 + a . x): whatever `a` is, the surface and so the samples stay where they are."""

  latent_dim = 2
  code_shapes = ((2,),)
  light_conditioned = False

  @classmethod
  def sections(cls):
    return {}

  @classmethod
  def from_sections(cls, read):
    return cls()

  def init(self, key):
    return {"a": jnp.array([2.0, -1.0, 3.0])}

  def codes(self, params, latents, *, truncation=1.0):
    return (latents,)

  def field_fn(self, params, codes, light):
    def field(points, viewdirs):
      inside = 60 * (0.08 - jnp.linalg.norm(points, axis=-1))
      return FieldSamples(inside * (1 + points @ params["a"]), jnp.ones_like(points) / 2)

    return field


@pytest.mark.parametrize("name", ["opacity", "normal"])
def test_each_regulariser_is_differentiated_where_its_samples_are(method, name):
  """Samples carry no gradient by definition, so the law needs a field whose surface its parameters do not move."""
  weights = dataclasses.replace(method.regularisers, **{"opacity": 0.0, "normal": 0.0, "neighbour": 0.02, name: 1.0})
  surface = dataclasses.replace(method.surface, fine=0)
  only = dataclasses.replace(method, generator=TiltedBalls(), regularisers=weights, surface=surface)
  stage, anneals = only.plan(1)
  traced = {key: jnp.float32(value) for key, value in anneals.items()}

  @jax.jit
  def loss(a):
    return only.extra_losses({}, only.generate({"a": a}, jax.random.key(2), traced, stage=stage))[name]

  a = TiltedBalls().init(None)["a"]
  gradient, step = jax.grad(loss)(a), 0.05 * jnp.eye(3)
  slopes = [(loss(a + h) - loss(a - h)) / 0.1 for h in step]
  np.testing.assert_allclose(gradient, slopes, rtol=0.02, atol=0.02 * np.abs(slopes).max())


def test_the_released_meaning_leaves_the_occupancy_alone(method):
  released = dataclasses.replace(
    method, regularisers=dataclasses.replace(method.regularisers, meaning="released", normal=0.0)
  )
  stage, anneals = released.plan(0)
  traced = {key: jnp.float32(value) for key, value in anneals.items()}

  def loss(params):
    fakes = released.generate(params, jax.random.key(2), traced, stage=stage)
    return released.extra_losses(params, fakes)["opacity"]

  gradient = jax.jit(jax.grad(loss))(released.init_generator(jax.random.key(0)))["field"]
  assert float(jnp.abs(gradient["density_head"]["kernel"]).max()) == 0
  assert float(jnp.abs(gradient["color_head"]["kernel"]).max()) > 0


def test_surface_rendering_shows_the_zero_of_the_logit(model):
  latents, cameras, lights = model.sample_latents(2), model.sample_cameras(2), model.sample_lights(2)
  picture = model.render_surface(latents, cameras, lights, resolution=16)
  volume = model.render(latents, cameras, lights, resolution=16)
  found = np.asarray(picture.extras["found"])
  np.testing.assert_array_equal(found, volume.extras["found"])
  assert 0.2 < found.mean() < 0.95
  np.testing.assert_allclose(picture.distance[found], volume.extras["root"][found], rtol=2e-5)  # acc + 1e-5
  np.testing.assert_allclose(picture.rgb[~found], model.method.rendering.background)
  # The field there: its raw is zero, its colour is the albedo, its gradient the normal.
  forward = -np.asarray(cameras.cam2world)[:, None, None, :3, 2]
  rays = model.method.cameras.picture_rays(cameras, 16)
  points = rays.origins + picture.distance.reshape(2, -1, 1) * rays.directions
  field = model.query(latents, points, lights)
  flat = found.reshape(2, -1)
  steepness = np.linalg.norm(field.gradient, axis=-1)[flat]
  assert np.quantile(np.abs(np.asarray(field.raw)[flat]) / steepness, 0.95) < 2e-3  # world units from the root
  np.testing.assert_allclose(picture.albedo.reshape(2, -1, 3)[flat], field.color[flat], atol=1e-4)
  normals = -np.asarray(field.gradient)[flat] / steepness[:, None]
  np.testing.assert_allclose(picture.normals.reshape(2, -1, 3)[flat], normals, atol=1e-3)
  assert np.all(np.sum(forward * np.asarray(picture.normals), -1)[found] < 0.3), "roots are entrances"


def test_the_released_surface_is_the_expected_distance(model, method):
  latents, cameras, lights = model.sample_latents(1), model.sample_cameras(1), model.sample_lights(1)

  @jax.jit
  def both(*inputs):
    picture = method.render_surface(model.params, Scene(*inputs), resolution=8, at="expected")
    return picture, method.render(model.params, Scene(*inputs), resolution=8)

  picture, volume = both(latents, cameras, lights)
  np.testing.assert_allclose(picture.distance, volume.distance, rtol=2e-5)
  np.testing.assert_allclose(picture.acc, 1.0)


def test_a_density_model_says_that_it_has_no_surface():
  from configs import pigan

  other = build(small(pigan.get_config("smoke")))
  with pytest.raises(UserError, match="without a surface"):
    Model(other, {}, {}).render_surface()


@pytest.mark.parametrize(("section", "name"), [("surface", "root_rule"), ("regularisers", "meaning")])
def test_an_unknown_choice_is_named(section, name):
  config = small(gof.get_config("smoke"))
  config[section][name] = "typo"
  with pytest.raises(UserError, match=f"{name}: 'typo'"):
    build(config)
