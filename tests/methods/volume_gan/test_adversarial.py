"""The adversarial engine with real methods, made small by `configs.common.shrink`."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, pigan, shadegan
from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.methods.catalog import build, resolve
from shapegan_jax.planning.costs import collectives
from shapegan_jax.types import Lights, Scene


def small(config):
  return common.shrink(config).to_dict()


@pytest.fixture(scope="module")
def shade():
  config = shadegan.get_config("smoke")
  config.tracking.start = 0
  config.stages.samples = (4,)
  config.tracking.samples = 4
  return build(small(config))


@pytest.fixture(scope="module")
def stepped(shade):
  """(state before, state after, metrics) of one tracked ShadeGAN step."""
  stage, anneals = shade.plan(1)
  assert stage.tracked
  image = np.random.default_rng(0).uniform(-1, 1, (4, stage.resolution, stage.resolution, 3)).astype(np.float32)
  before = shade.init(jax.random.key(0))
  step = jax.jit(shade.update, static_argnames="stage")
  after, metrics = step(before, {"image": image}, jax.random.key(1), traced(anneals), stage=stage)
  return before, after, metrics


def traced(anneals):
  return {name: jnp.asarray(value, jnp.float32) for name, value in anneals.items()}


def test_a_step_moves_every_network_and_reports_finite_losses(stepped):
  before, after, metrics = stepped
  assert all(np.isfinite(float(value)) for value in metrics.values())
  assert {"disc/r1", "disc/pose", "gen/generator", "gen/tracking"} <= set(metrics)
  for name in ("gen_params", "disc_params"):
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), getattr(before, name), getattr(after, name))
    # The entrances of other resolutions rest; everything else learns.
    still = [jax.tree_util.keystr(p) for p, m in jax.tree_util.tree_leaves_with_path(moved) if m == 0]
    assert all("entrances" in path or "blocks" in path for path in still), still
  assert int(after.step) == 1


def test_the_average_follows_its_warm_up(stepped):
  """After the first update the decay is (1 + 1) / (10 + 1)."""
  before, after, _ = stepped
  old, new, average = (jax.tree.leaves(tree) for tree in (before.gen_params, after.gen_params, after.ema_params))
  for a, b, ema in zip(old, new, average, strict=True):
    np.testing.assert_allclose(ema, a + (1 - 2 / 11) * (b - a), atol=1e-7)


def test_tracking_teaches_the_surface_network_and_nothing_else(shade):
  params = shade.init_generator(jax.random.key(0))
  stage, anneals = shade.plan(1)

  def tracking(params):
    fakes = shade.generate(params, jax.random.key(2), traced(anneals), stage=stage)
    return shade.extra_losses(params, fakes)["tracking"]

  grads = jax.jit(jax.grad(tracking))(params)
  assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves((grads["mapping"], grads["field"])))
  assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["surface"]))


def test_light_changes_the_picture_but_neither_albedo_nor_shape(shade):
  params = shade.init_generator(jax.random.key(0))
  latents, cameras = shade.sample_latents(jax.random.key(1), 2), shade.sample_cameras(jax.random.key(2), 2)
  render = jax.jit(partial(shade.render, resolution=8))
  left, right = (
    render(params, Scene(latents, cameras, Lights(jnp.tile(jnp.array([[-0.5, 0.3, x, 0.0]]), (2, 1)))))
    for x in (-1.5, 1.5)
  )
  for name in ("albedo", "normals", "depth", "acc"):
    np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
  assert np.abs(left.rgb - right.rgb).max() > 0.05


def test_shading_is_albedo_times_light(shade):
  params = shade.init_generator(jax.random.key(0))
  latents, cameras = shade.sample_latents(jax.random.key(1), 2), shade.sample_cameras(jax.random.key(2), 2)
  lights = shade.sample_lights(jax.random.key(3), 2)
  picture = jax.jit(partial(shade.render, resolution=8))(params, Scene(latents, cameras, lights))
  cosine = np.clip(np.einsum("bhwc,bc->bhw", picture.normals, lights.direction), 0, 1)
  shading = np.asarray(lights.ambient)[:, None, None] + np.asarray(lights.diffuse)[:, None, None] * cosine
  expected = np.clip(picture.albedo * shading[..., None], 0, 1)
  expected += shade.rendering.background * (1 - np.asarray(picture.acc)[..., None])
  np.testing.assert_allclose(picture.rgb, np.clip(expected, 0, 1), atol=1e-5)


def test_truncation_zero_makes_all_latents_one(shade):
  params = shade.init_generator(jax.random.key(0))
  frequencies, phases = shade.generator.codes(params, shade.sample_latents(jax.random.key(1), 3), truncation=0.0)
  np.testing.assert_allclose(frequencies, jnp.tile(frequencies[:1], (3, 1)), atol=1e-6)
  np.testing.assert_allclose(phases, jnp.tile(phases[:1], (3, 1)), atol=1e-6)


def test_query_agrees_with_finite_differences(shade):
  params = shade.init_generator(jax.random.key(0))
  latents = shade.sample_latents(jax.random.key(1), 1)
  points = jax.random.uniform(jax.random.key(2), (1, 5, 3), minval=-0.08, maxval=0.08)
  lights = shade.sample_lights(jax.random.key(3), 1)
  gradient = shade.query(params, latents, points, lights).gradient
  for axis in range(3):
    offset = jnp.zeros(3).at[axis].set(1e-4)
    ahead, behind = (shade.query(params, latents, points + s * offset[None, None], lights).raw for s in (1, -1))
    np.testing.assert_allclose(gradient[..., axis], (ahead - behind) / 2e-4, rtol=0.02, atol=2.0)


class OneStep:
  """A step of pi-GAN on a mesh of some devices: what it gives and the program."""

  def __init__(self, shape, **stages):
    config = common.shrink(pigan.get_config("smoke"))
    config.stages.update(stages)
    config.rendering.chunk_points = 64  # a loop over chunks of the rays
    method = build(config.to_dict())
    stage, anneals = method.plan(0)
    image = np.random.default_rng(0).uniform(-1, 1, (4, stage.resolution, stage.resolution, 3)).astype(np.float32)
    devices = np.array(jax.devices()[: math.prod(shape)]).reshape(shape)
    mesh = jax.sharding.Mesh(devices, (parallel.DATA, parallel.RAYS))
    args = parallel.put_replicated(mesh, (method.init(jax.random.key(0)), traced(anneals)))
    batch, key = parallel.put_batch(mesh, {"image": image}), jax.jit(lambda: jax.random.key(1))()
    key = jax.device_put(key, parallel.replicated(mesh))
    step = jax.jit(method.update, static_argnames="stage", out_shardings=parallel.replicated(mesh))
    with jax.set_mesh(mesh):
      self.program = step.lower(args[0], batch, key, args[1], stage=stage).compile()
    self.after, self.metrics = jax.device_get(self.program(args[0], batch, key, args[1]))

  def is_close_to(self, other):
    for name, value in self.metrics.items():
      np.testing.assert_allclose(other.metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    # Adam divides by the gradient's own size, so where a gradient is rounding noise the update is a coin toss.
    pairs = zip(*map(jax.tree.leaves, (self.after, other.after)), strict=True)
    return np.mean([np.isclose(a, b, atol=2e-6).mean() for a, b in pairs]) > 0.95

  @property
  def turns(self):
    """The trip count of its longest loop, that over chunks of the rays."""
    return max(map(int, re.findall(r'known_trip_count":\{"n":"(\d+)"', self.program.as_text())))


@pytest.fixture(scope="module")
def one_step():
  return OneStep((1, 1))


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)], ids=["data", "rays"])
def test_a_step_on_two_devices_is_a_step_on_one(one_step, shape):
  """Each does half of the work (of the generator's, where the rays of a picture are shared), and they meet only when it
  is done: the gradients of each network are summed once, and rays become pictures once."""
  two = OneStep(shape)
  assert one_step.is_close_to(two)
  assert two.turns == one_step.turns / 2 > 0, "two devices do not share the work"
  found = collectives(two.program)
  assert not any(inside for _, inside in found), f"a loop moves data between devices: {found}"
  assert {name for name, _ in found} <= {"all-reduce", "all-gather"}, found
  assert found["all-reduce", False] <= 4, found
  assert found["all-gather", False] <= 6, found


def test_a_discriminator_that_takes_a_batch_in_micro_batches_learns_the_same(one_step):
  assert one_step.is_close_to(OneStep((2, 1), micro_batches=2))


def test_fakes_can_be_shared(shade):
  shared = dataclasses.replace(shade, objectives=dataclasses.replace(shade.objectives, shared_fakes=True))
  fresh = dataclasses.replace(shade, objectives=dataclasses.replace(shade.objectives, shared_fakes=False))
  stage, anneals = shade.plan(0)
  state, batch = (
    jax.eval_shape(shade.init, jax.random.key(0)),
    {"image": jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)},
  )

  def flops(method):
    step = jax.jit(method.update, static_argnames="stage")
    return step.lower(state, batch, jax.random.key(0), traced(anneals), stage=stage).cost_analysis()["flops"]

  assert flops(shared) < 0.97 * flops(fresh)  # a loop's body is counted once


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("method", "gan", "no method is called 'gan'"),
    ("field.widht", 3, "config.field.widht"),
    ("discriminator.kind", "big", "config.discriminator.kind"),
    ("cameras.prior", "mars", "config.cameras.prior"),
    ("lights.mean", (0.0,), "config.lights"),
  ],
)
def test_a_wrong_setting_is_named(key, value, message):
  config = shadegan.get_config("smoke").to_dict()
  *sections, name = key.split(".")
  node = config
  for section in sections:
    node = node[section]
  node[name] = value
  with pytest.raises(UserError, match=message):
    build(config).sample_cameras(jax.random.key(0), 1)


def test_fitted_lights_become_numbers():
  class Source:
    def lights(self):
      return np.random.default_rng(0).normal(0.3, 0.1, (500, 4)).astype(np.float32)

  config = shadegan.get_config("smoke").to_dict()
  config["lights"]["prior"] = "fitted"
  method = build(resolve(config, Source()))
  np.testing.assert_allclose(method.lighting.prior.mean, 0.3, atol=0.02)
  np.testing.assert_allclose(method.lighting.prior.cov, 0.01 * np.eye(4), atol=2e-3)
  with pytest.raises(UserError, match="carries lights"):
    resolve(config, object())


def test_a_missing_extra_stops_the_run_before_it_begins(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  config = shadegan.get_config("smoke")
  config.tracking.perceptual = True
  with pytest.raises(UserError, match=r"pip install -e '\.\[metrics\]'"):
    build(config.to_dict())
