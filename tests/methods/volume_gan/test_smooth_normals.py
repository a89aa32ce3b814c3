"""The smoothness of normals of pi-GAN and ShadeGAN, ours: where it looks, and what spheres and waves cost."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, pigan, shadegan
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan.engine import Fakes
from shapegan_jax.objectives.shape import normal_smoothness
from shapegan_jax.types import FieldSamples, Rendering

NOTHING = jnp.zeros(())
RADIUS, STEP, SIZE = 0.08, 1e-3, 16


def method_with(field, **smoothness):
  """A small pi-GAN whose field is `field` of points, whatever the codes."""
  config = common.shrink(pigan.get_config("heads"))
  config.smoothness.update(rays=400, neighbour=STEP, **smoothness)
  method = build(config.to_dict())
  generator = dataclasses.replace(method.generator)
  object.__setattr__(
    generator,
    "field_fn",
    lambda params, codes, light: lambda points, viewdirs: FieldSamples(raw=field(points), color=jnp.ones_like(points)),
  )
  return dataclasses.replace(method, generator=generator)


def ball(points):
  return 50 * (RADIUS - jnp.linalg.norm(points, axis=-1))


def wavy(points):
  return ball(points) + 0.2 * jnp.sin(300 * points[..., 1])


def pictures_of_the_ball(cameras):
  """Distance along the rays to the ball of RADIUS, and whether they meet it."""
  rays = pigan_cameras().picture_rays(cameras, SIZE)
  along = -jnp.sum(rays.origins * rays.directions, -1)
  missed = jnp.sum(rays.origins**2, -1) - along**2
  met = missed < RADIUS**2
  distance = jnp.where(met, along - jnp.sqrt(jnp.maximum(RADIUS**2 - missed, 0.0)), 1.0)
  maps = [x.reshape(-1, SIZE, SIZE) for x in (distance, met.astype(jnp.float32))]
  return Rendering(rgb=jnp.ones((*maps[0].shape, 3)), distance=maps[0], acc=maps[1])


def pigan_cameras():
  return build(pigan.get_config("heads").to_dict()).cameras


def pairs_and_loss(field, key):
  method = method_with(field, weight=3.0)
  cameras = method.sample_cameras(key, 2)
  codes = (jnp.zeros((2, 1)), jnp.zeros((2, 1)))
  aux = method.normal_pairs({}, key, codes, cameras, None, pictures_of_the_ball(cameras))
  fakes = Fakes(NOTHING, NOTHING, NOTHING, aux)
  return aux, method.extra_losses({}, fakes)["smooth"]


def test_normals_of_a_ball_turn_by_the_way_along_it(key):
  aux, loss = pairs_and_loss(ball, key)
  found = np.asarray(aux["found"])
  assert 0.2 < found.mean() < 0.8, "rays beside the ball are not looked at"
  np.testing.assert_allclose(jnp.linalg.norm(aux["pair"], axis=-1), 1.0, rtol=1e-4)
  # Of a random step two thirds of the square lie along the surface; the loss is a mean over three components.
  np.testing.assert_allclose(loss, 3.0 * (2 / 3) * (STEP / RADIUS) ** 2 / 3, rtol=0.1)
  assert (aux["pair"][:, :, 0, 2][found] > -0.5).all(), "outwards, on the side that cameras about the front see"


def test_waves_cost_more_than_the_ball_below_them(key):
  assert pairs_and_loss(wavy, key)[1] > 10 * pairs_and_loss(ball, key)[1]


def test_without_weight_nothing_is_evaluated(key):
  method = method_with(ball, weight=0.0)
  cameras = method.sample_cameras(key, 2)
  assert method.normal_pairs({}, key, (NOTHING, NOTHING), cameras, None, pictures_of_the_ball(cameras)) == {}
  assert method.extra_losses({}, Fakes(NOTHING, NOTHING, NOTHING)) == {}


@pytest.mark.parametrize("presets", [pigan, shadegan])
def test_heads_have_it_and_the_papers_sets_do_not(presets):
  for preset in ("heads", "smoke"):
    assert build(presets.get_config(preset).to_dict()).smoothness.weight > 0
  assert build(presets.get_config("celeba").to_dict()).smoothness.weight == 0


def test_shadegan_minimises_it_beside_the_tracking_loss(key):
  config = shadegan.get_config("smoke")
  config.smoothness.weight = 3.0
  method = build(config.to_dict())
  params = method.init_generator(key)
  stage, anneals = method.plan(0)
  anneals = jax.tree.map(jnp.asarray, anneals)
  fakes = jax.jit(lambda params: method.generate(params, key, anneals, stage=stage))(params)
  losses = method.extra_losses(params, fakes)
  assert set(losses) == {"smooth", "tracking"}
  np.testing.assert_allclose(losses["smooth"], 3 * normal_smoothness(fakes.aux["pair"], fakes.aux["found"]), rtol=1e-6)
  assert losses["smooth"] > 0
