"""GOF's contracting sampler and surface rendering on balls whose roots, normals and pictures are known."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import cast_rays
from shapegan_jax.rendering.opacities import Occupancy, Solid
from shapegan_jax.rendering.samplers import ContractingSampler, PointSampler, RootSampler, RootSearch
from shapegan_jax.rendering.volume import Compositor, SamplingNoise, Window, render_rays, with_gradient
from shapegan_jax.types import FieldSamples

RADIUS, NEAR, FAR = 0.08, 0.88, 1.12


def ball(sharpness=100.0):
  """Occupancy logit sharpness (radius - |x|); the colour is the position, shifted into [0, 1]."""

  def field(points, viewdirs):
    del viewdirs
    return FieldSamples(raw=sharpness * (RADIUS - jnp.linalg.norm(points, axis=-1)), color=points + 0.5)

  return field


@pytest.fixture(scope="module")
def rays():
  cameras = orbit_cameras(jnp.array(0.3), jnp.array(-0.2), fov=jnp.deg2rad(12.0))
  return cast_rays(cameras, pixel_grid(12, 12).reshape(-1, 2), near=NEAR, far=FAR)


@pytest.fixture(scope="module")
def truth(rays):
  """(distance, hit) of the ball, in closed form."""
  along = -np.sum(rays.origins * rays.directions, -1)
  room = RADIUS**2 - (np.sum(np.square(rays.origins), -1) - along**2)
  return along - np.sqrt(np.maximum(room, 0)), room > 0


SEARCH = RootSearch(coarse=9, steps=4)


def test_the_search_finds_the_ball(rays, truth):
  root, found, t_points, logits = SEARCH(ball(), rays)
  distance, hit = truth
  assert t_points.shape == logits.shape == (144, 9)
  assert not np.any(found & ~hit)
  # A plane every 0.03 can miss only what is grazed: chords shorter than that.
  chord = 2 * np.sqrt(
    np.maximum(
      RADIUS**2
      - np.square(
        np.linalg.norm(
          rays.origins + jnp.sum(-rays.origins * rays.directions, -1, keepdims=True) * rays.directions, axis=-1
        )
      ),
      0,
    )
  )
  assert np.all(found[chord > 0.0301])
  np.testing.assert_allclose(root[found], distance[found], atol=5e-4)


@pytest.mark.parametrize("width", [0.24, 0.02])
def test_samples_lie_in_the_region_and_composite_to_the_surface(rays, truth, width):
  sampler = ContractingSampler(SEARCH, surface=12, fine=0)
  window = Window(centre=None, width=jnp.asarray(width))
  sampled = sampler(ball(1000.0), rays, Occupancy(), SamplingNoise(), window)
  found, root = sampled.extras["found"], sampled.extras["root"]
  ends = sampled.t_points[:, 0], sampled.t_points[:, -1]
  np.testing.assert_allclose(ends[1] - ends[0], jnp.where(found, width, FAR - NEAR), atol=1e-5)
  assert np.all(ends[0] >= NEAR - 1e-6)
  assert np.all(ends[1] <= FAR + 1e-6)
  if width < 0.1:
    np.testing.assert_allclose((ends[0] + ends[1])[found] / 2, root[found], atol=1e-5)
  picture = Compositor()(sampled, rays, Occupancy())
  distance, _ = truth
  # The first samples inside take all: the answer is within a spacing of the surface, give or take the logit's slope.
  behind = np.asarray(picture.distance - distance)[np.asarray(found)]
  assert np.abs(behind).max() < width / 11 + 1e-3


def test_fine_samples_follow_the_coarse_weights_and_join_in_order(rays):
  sampler = ContractingSampler(SEARCH, surface=6, fine=4)
  noise = sampler.draw(jax.random.key(0), (144,))
  assert noise.neighbour is None
  sampled = sampler(ball(), rays, Occupancy(), noise, Window(centre=None, width=jnp.asarray(0.04)))
  assert sampled.t_points.shape == (144, 10) == sampled.extras["logits"].shape
  assert np.all(np.diff(sampled.t_points, axis=-1) >= 0)
  window = Window(centre=None, width=jnp.asarray(0.04))
  again = sampler(ball(), rays, Occupancy(), sampler.draw(jax.random.key(1), (144,)), window)
  assert not np.allclose(again.t_points, sampled.t_points)


def test_nothing_of_the_search_reaches_the_gradient(rays):
  """The logits' gradient is that of the composited samples alone, held where they are."""
  sampler = ContractingSampler(SEARCH, surface=6, fine=3)

  def field_of(scale):
    return lambda points, viewdirs: FieldSamples(scale * ball().__call__(points, viewdirs).raw, points + 0.5)

  def loss(scale, points=None):
    sampled = sampler(field_of(scale), rays, Occupancy(), SamplingNoise(), None)
    return jnp.sum(sampled.samples.raw), sampled.t_points

  (_, t_points), gradient = jax.value_and_grad(loss, has_aux=True)(1.0)
  held = rays.origins[:, None] + t_points[..., None] * rays.directions[:, None]
  np.testing.assert_allclose(gradient, jnp.sum(ball()(held, None).raw), rtol=1e-5)


def test_the_pair_of_normals_is_the_ball_s(rays):
  sampler = ContractingSampler(SEARCH, surface=4, fine=0, neighbour=0.01)
  noise = sampler.draw(jax.random.key(0), (144,))
  np.testing.assert_allclose(jnp.linalg.norm(noise.neighbour, axis=-1), 0.01, rtol=1e-4)
  for field in (ball(), with_gradient(ball())):
    extras = sampler(field, rays, Occupancy(), noise, None).extras
    surface = rays.origins + extras["root"][:, None] * rays.directions
    for i, points in enumerate((surface, surface + noise.neighbour)):
      normal = points / jnp.linalg.norm(points, axis=-1, keepdims=True)
      np.testing.assert_allclose(extras["pair"][:, i], normal, atol=1e-4)


def test_surface_rendering_is_one_evaluation_at_the_root(rays, truth):
  counted = []

  def field(points, viewdirs):
    counted.append(points.shape)
    return ball()(points, viewdirs)

  picture = render_rays(
    with_gradient(field), rays, RootSampler(SEARCH), Compositor(background=1.0), opacity=Solid(), noise=SamplingNoise()
  )
  assert counted.count((144, 1, 3)) == 2, "one refinement (in a loop) and one colour evaluation"
  found, (distance, _) = np.asarray(picture.extras["found"]), truth
  surface = rays.origins + distance[:, None] * rays.directions
  np.testing.assert_allclose(picture.rgb[found], surface[found] + 0.5, atol=1e-3)
  np.testing.assert_allclose(picture.normals[found], surface[found] / RADIUS, atol=2e-2)
  np.testing.assert_allclose(picture.acc, found, atol=0)
  np.testing.assert_array_equal(picture.rgb[~found], 1.0)


def test_points_of_one_s_own_choice_are_rendered_where_they_are(rays):
  window = Window(centre=jnp.full((144,), 1.0), width=jnp.asarray(1.0))
  show = partial(render_rays, ball(), rays, PointSampler(), Compositor(), opacity=Solid(), noise=SamplingNoise())
  picture = show(window=window, chunk=50)
  np.testing.assert_allclose(picture.rgb, rays.origins + rays.directions + 0.5, atol=1e-6)
  nothing = dataclasses.replace(window, width=jnp.asarray(0.0))
  assert float(show(window=nothing).acc.max()) == 0
