"""The ray pipeline on fields whose pictures are known in closed form."""

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
from shapegan_jax.rendering.opacities import Density, LogisticDensity, Occupancy
from shapegan_jax.rendering.samplers import HierarchicalSampler
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.rendering.volume import (
  Compositor,
  SamplingNoise,
  Window,
  points_at,
  render_rays,
  with_gradient,
)
from shapegan_jax.types import FieldSamples, Lights

RADIUS = 0.08
SHARPNESS = 1e6  # density per unit of depth: opaque within 2e-3


def ball(points, viewdirs):
  """A ball with a steep edge, coloured by position."""
  del viewdirs
  raw = SHARPNESS * (RADIUS - jnp.linalg.norm(points, axis=-1))
  return FieldSamples(raw=raw, color=jax.nn.sigmoid(20.0 * points))


@pytest.fixture
def rays():
  camera = orbit_cameras(jnp.array(0.4), jnp.array(-0.2), fov=jnp.deg2rad(12.0))
  return cast_rays(camera, pixel_grid(9, 9).reshape(-1, 2), near=0.88, far=1.12)


@partial(jax.jit, static_argnames=("field", "sampler", "compositor", "opacity"))
def picture_of(field, rays, sampler, compositor, window=None, opacity=Density()):
  return render_rays(field, rays, sampler, compositor, opacity=opacity, noise=SamplingNoise(), window=window)


def exact_hit(rays):
  """(distance [n], hit [n]) of the rays with the ball."""
  o, d = np.asarray(rays.origins, np.float64), np.asarray(rays.viewdirs, np.float64)
  b = (o * d).sum(-1)
  inside = b * b - (o * o).sum(-1) + RADIUS**2
  return -b - np.sqrt(np.maximum(inside, 0)), inside > 2e-3 * RADIUS


def test_a_ball_has_the_distance_and_the_normals_of_a_sphere(rays):
  sampler = HierarchicalSampler(coarse=48, fine=48)
  picture = picture_of(with_gradient(ball), rays, sampler, Compositor(background=1.0))
  distance, hit = exact_hit(rays)
  assert hit.sum() > 20
  np.testing.assert_allclose(picture.distance[hit], distance[hit], atol=0.24 / 47)  # a coarse spacing
  expected = (rays.origins + distance[:, None] * rays.viewdirs) / RADIUS
  assert np.median(np.sum(np.asarray(picture.normals) * expected, -1)[hit]) > 0.999
  np.testing.assert_allclose(picture.acc[hit], 1.0, atol=1e-3)
  assert np.all(picture.rgb[np.asarray(picture.acc) < 1e-6] == 1.0)


def test_gradient_is_that_of_raw_and_costs_no_second_answer(rays):
  points = points_at(rays, jnp.full((81, 2), 0.95))
  samples = with_gradient(ball)(points, rays.viewdirs)
  expected = -SHARPNESS * points / jnp.linalg.norm(points, axis=-1, keepdims=True)
  np.testing.assert_allclose(samples.gradient, expected, rtol=1e-4, atol=1e-4 * SHARPNESS)
  np.testing.assert_array_equal(samples.raw, ball(points, rays.viewdirs).raw)


def test_the_chunk_size_changes_nothing(rays, key):
  sampler = HierarchicalSampler(coarse=6, fine=5)
  compositor = Compositor(shader=lambertian, background=0.3)
  window = Window(centre=jnp.linspace(0.95, 1.05, 81), width=jnp.asarray(0.2))
  light = Lights(jnp.array([0.0, 0.3, 0.5, 0.2]))
  noise = sampler.draw(key, (81,), noise_std=jnp.asarray(0.5))

  def loss(sharpness, chunk):
    def field(points, viewdirs):
      samples = ball(points, viewdirs)
      return dataclasses.replace(samples, raw=sharpness * samples.raw)

    picture = render_rays(
      with_gradient(field),
      rays,
      sampler,
      compositor,
      opacity=Density(),
      noise=noise,
      window=window,
      light=light,
      chunk=chunk,
    )
    return jnp.sum(picture.rgb**2), picture

  value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  (_, whole), whole_grad = value_and_grad(1e-3, None)
  (_, parts), parts_grad = value_and_grad(1e-3, 10)  # 81 rays: the last chunk is padded
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, parts)
  np.testing.assert_allclose(whole_grad, parts_grad, rtol=1e-3)


def test_a_window_around_the_surface_does_with_a_quarter_of_the_samples(rays):
  distance, hit = exact_hit(rays)
  window = Window(centre=jnp.asarray(distance, jnp.float32), width=jnp.asarray(0.02))
  few = HierarchicalSampler(coarse=6, fine=0)
  tracked = picture_of(ball, rays, few, Compositor(), window)
  blind = picture_of(ball, rays, few, Compositor())
  tracked_error = np.abs(tracked.distance - distance)[hit].max()
  assert tracked_error < 0.02 / 5 < np.abs(blind.distance - distance)[hit].max()


def test_both_doors_lead_to_the_same_picture(rays):
  """A density whose alphas equal an occupancy's gives that occupancy's picture."""
  sampler = HierarchicalSampler(coarse=12, fine=0)

  def as_logit(points, viewdirs):
    samples = ball(points, viewdirs)
    step = 0.24 / 11
    delta = jnp.full_like(samples.raw, step).at[..., -1].set(0.0)
    alphas = -jnp.expm1(-jax.nn.relu(samples.raw) * delta)
    return dataclasses.replace(samples, raw=jnp.log(alphas) - jnp.log1p(-alphas))

  by_density = picture_of(ball, rays, sampler, Compositor())
  by_occupancy = picture_of(as_logit, rays, sampler, Compositor(), opacity=Occupancy())
  np.testing.assert_allclose(by_density.rgb, by_occupancy.rgb, atol=1e-4)
  np.testing.assert_allclose(by_density.acc, by_occupancy.acc, atol=1e-4)


def test_last_back_spends_what_is_left_on_the_last_sample(rays):
  sampler = HierarchicalSampler(coarse=6, fine=0)
  picture = picture_of(ball, rays, sampler, Compositor(last_back=True, background=1.0))
  np.testing.assert_allclose(picture.acc, 1.0, atol=1e-6)
  empty = np.asarray(picture_of(ball, rays, sampler, Compositor()).acc) == 0
  last = jax.nn.sigmoid(20.0 * points_at(rays, rays.far[:, None]))[:, 0]
  np.testing.assert_allclose(picture.rgb[empty], last[empty], atol=1e-5)


def test_draws_without_a_key_are_deterministic_and_with_one_are_in_range(key):
  sampler = HierarchicalSampler(coarse=4, fine=3)
  assert jax.tree.leaves(sampler.draw(None, (5,))) == []
  noise = sampler.draw(key, (5,), noise_std=jnp.asarray(2.0))
  assert noise.jitter.shape == (5, 4)
  assert np.abs(noise.jitter).max() <= 0.5
  assert noise.raw.shape == (5, 7)
  assert 0 <= noise.fine.min() <= noise.fine.max() <= 1


def test_noise_is_added_to_what_is_composited(rays):
  noise = jnp.linspace(-40.0, 40.0, 81 * 5).reshape(81, 5)
  sampler = HierarchicalSampler(5, 0)
  flat = lambda offset: lambda points, viewdirs: FieldSamples(30.0 + offset, jnp.full(points.shape, 0.5))  # noqa: E731

  def acc(field, noise):
    return render_rays(field, rays, sampler, Compositor(), opacity=Density(), noise=noise).acc

  noisy = acc(flat(0 * noise), SamplingNoise(raw=noise))
  shifted = acc(flat(noise), SamplingNoise())
  np.testing.assert_allclose(noisy, shifted, atol=1e-6)
  assert float(jnp.abs(noisy - acc(flat(0 * noise), SamplingNoise())).max()) > 0.1


def test_a_learned_tightness_is_the_logistic_density_and_has_a_gradient(rays):
  """alpha = 1 - exp(-sigmoid(raw / a) / a delta), with a where it begins; a thinner wall absorbs more of a ray."""
  opacity = LogisticDensity(start=0.02)
  params = opacity.init()
  raw, deltas = jnp.linspace(-0.05, 0.05, 7), jnp.full((7,), 0.01)
  expected = -np.expm1(-np.exp(-np.logaddexp(0, -np.asarray(raw) / 0.02)) / 0.02 * 0.01)
  np.testing.assert_allclose(opacity.bind(params)(raw, deltas), expected, rtol=1e-5)

  def absorbed(log_tightness):
    alphas = opacity.bind({"log_tightness": log_tightness})(raw, deltas)
    return alphas.sum()

  at, step = params["log_tightness"], 1e-2
  slope = (absorbed(at + step) - absorbed(at - step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(absorbed)(at), slope, rtol=1e-3)


def test_fine_samples_follow_the_noisy_coarse_weights(rays):
  """All the weight that noise puts on one coarse sample draws the fine ones to it."""
  sampler = HierarchicalSampler(9, 6)
  empty = lambda points, viewdirs: FieldSamples(jnp.full(points.shape[:-1], -1.0), points)  # noqa: E731
  coarse = jnp.linspace(0.88, 1.12, 9)
  for index in (2, 5):
    noise = jnp.zeros((81, 9)).at[:, index].set(1e6)
    t_points = sampler(empty, rays, Density(), SamplingNoise(coarse_raw=noise), None).t_points
    near = jnp.abs(t_points - coarse[index]) <= 0.0151
    assert np.all(np.sum(near, -1) >= 6 + 1 - 2), "but for the ends of the distribution, all are in the sample's bin"


def test_stratified_samples_stay_in_their_bins(rays):
  sampler = HierarchicalSampler(8, 0, placement="stratified")
  flat = lambda points, viewdirs: FieldSamples(points[..., 0], points)  # noqa: E731
  edges = np.linspace(0.88, 1.12, 8)
  middles = (edges[1:] + edges[:-1]) / 2
  low, high = np.concatenate([edges[:1], middles]), np.concatenate([middles, edges[-1:]])
  for offset, end in ((-0.5, low), (0.5, high), (0.0, (low + high) / 2)):
    t_points = sampler(flat, rays, Density(), SamplingNoise(jitter=jnp.full((81, 8), offset)), None).t_points
    np.testing.assert_allclose(t_points, np.broadcast_to(end, (81, 8)), atol=1e-6)
