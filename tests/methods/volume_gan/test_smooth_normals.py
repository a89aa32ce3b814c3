"""The smoothness of normals of pi-GAN and ShadeGAN, ours: where it looks, and what spheres and waves cost."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pigan, shadegan
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan.cameras import CameraConfig
from shapegan_jax.methods.volume_gan.smoothness import SmoothnessConfig
from shapegan_jax.objectives.shape import normal_smoothness
from shapegan_jax.types import FieldSamples, Rendering

RADIUS, STEP, SIZE = 0.08, 1e-3, 16


def config_with(**smoothness):
  return SmoothnessConfig(rays=400, neighbour=STEP, **smoothness)


def field_of(field):
  """`field` of points as an instance's field, whatever the parameters and codes are."""
  return lambda params, codes, light: lambda points, viewdirs: FieldSamples(field(points), jnp.ones_like(points))


def ball(points):
  return 50 * (RADIUS - jnp.linalg.norm(points, axis=-1))


def wavy(points):
  return ball(points) + 0.2 * jnp.sin(300 * points[..., 1])


CAMERAS = CameraConfig()


def picture_of_the_ball(rays):
  """Distance along the rays to the ball of RADIUS, and whether they meet it."""
  along = -jnp.sum(rays.origins * rays.directions, -1)
  missed = jnp.sum(rays.origins**2, -1) - along**2
  met = missed < RADIUS**2
  distance = jnp.where(met, along - jnp.sqrt(jnp.maximum(RADIUS**2 - missed, 0.0)), 1.0)
  maps = [x.reshape(-1, SIZE, SIZE) for x in (distance, met.astype(jnp.float32))]
  return Rendering(rgb=jnp.ones((*maps[0].shape, 3)), distance=maps[0], acc=maps[1])


CODES = (jnp.zeros((2, 1)), jnp.zeros((2, 1)))


def pairs_and_loss(field, key, weight=3.0):
  config, rays = config_with(weight=weight), CAMERAS.picture_rays(CAMERAS.sample(key, 2), SIZE)
  pairs = config.normal_pairs(field_of(field), {}, key, CODES, rays, None, picture_of_the_ball(rays))
  return pairs, config.losses(pairs)


def test_normals_of_a_ball_turn_by_the_way_along_it(key):
  aux, losses = pairs_and_loss(ball, key)
  found = np.asarray(aux["found"])
  assert 0.2 < found.mean() < 0.8, "rays beside the ball are not looked at"
  np.testing.assert_allclose(jnp.linalg.norm(aux["pair"], axis=-1), 1.0, rtol=1e-4)
  # Of a random step two thirds of the square lie along the surface; the loss is a mean over three components.
  np.testing.assert_allclose(losses["smooth"], 3.0 * (2 / 3) * (STEP / RADIUS) ** 2 / 3, rtol=0.1)
  assert (aux["pair"][:, :, 0, 2][found] > -0.5).all(), "outwards, on the side that cameras about the front see"


def test_waves_cost_more_than_the_ball_below_them(key):
  assert pairs_and_loss(wavy, key)[1]["smooth"] > 10 * pairs_and_loss(ball, key)[1]["smooth"]


def test_without_weight_nothing_is_evaluated(key):
  def never(points):
    raise AssertionError("the field was evaluated")

  assert pairs_and_loss(never, key, weight=0.0) == ({}, {})


def test_the_places_carry_no_gradient_and_the_field_does(key):
  """The term smooths the field where rays end; it must not move the ends to where the field is smooth already."""
  config, rays = config_with(weight=3.0), CAMERAS.picture_rays(CAMERAS.sample(key, 2), SIZE)
  rendering = picture_of_the_ball(rays)

  def loss(distance, acc, height):
    field = field_of(lambda points: ball(points) + height * jnp.sin(300 * points[..., 1]))
    seen = dataclasses.replace(rendering, distance=distance, acc=acc)
    return config.losses(config.normal_pairs(field, {}, key, CODES, rays, None, seen))["smooth"]

  arguments = (rendering.distance, rendering.acc, 0.2)
  places, acc, field = jax.grad(loss, argnums=(0, 1, 2))(*arguments)
  moved = loss(rendering.distance + 2e-3, *arguments[1:])
  assert abs(moved - loss(*arguments)) > 1e-6, "the loss does depend on the places"
  np.testing.assert_array_equal(places, 0.0)
  np.testing.assert_array_equal(acc, 0.0)
  assert field > 0


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
