from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import cast_rays, distance_to_depth
from shapegan_jax.metrics import consistency
from shapegan_jax.metrics.consistency import View
from shapegan_jax.metrics.pose import pose_error_deg

SIZE, RADIUS = 48, 0.08
YAW = math.radians(20)

view_errors = jax.jit(lambda *args: consistency.view_errors(*args, tolerance=0.01))
weighted_variance = jax.jit(consistency.weighted_variance)


def cameras(*yaws):
  return orbit_cameras(jnp.array(yaws), jnp.zeros(len(yaws)), fov=math.radians(12))


@jax.jit
def ball(cameras):
  """An exactly known ball whose colour is a smooth function of the place on it."""
  rays = cast_rays(cameras, pixel_grid(SIZE, SIZE), near=0.88, far=1.12)
  along = jnp.sum(rays.origins * rays.directions, -1)
  inside = along**2 - jnp.sum(rays.origins**2, -1) + RADIUS**2
  solid = inside > 0
  distance = jnp.where(solid, -along - jnp.sqrt(jnp.maximum(inside, 0.0)), rays.far)
  places = rays.origins + distance[..., None] * rays.directions
  rgb = jnp.where(solid[..., None], 0.5 + 0.4 * jnp.sin(30 * places), 1.0)
  return View(rgb=rgb, depth=distance_to_depth(distance, cameras, rays.viewdirs), solid=solid)


def test_views_of_a_ball_agree():
  front, turned = cameras(0.0, 0.0), cameras(-YAW, YAW)
  errors = view_errors(ball(front), front, ball(turned), turned)
  # Bilinear between pixels 0.0045 wide on a ball of radius 0.08: h^2 / 8 times a curvature of 1/R, more at the rim.
  assert np.all(errors.depth < 5e-4), errors.depth
  assert np.all(errors.color < 0.01), errors.color
  assert np.all(errors.share > 0.7)
  np.testing.assert_allclose(errors.share[0], errors.share[1], atol=0.02)  # mirror images of each other


def test_what_turns_with_the_camera_does_not_agree():
  front, turned = cameras(0.0), cameras(YAW)
  good = view_errors(ball(front), front, ball(turned), turned)
  billboard = view_errors(ball(front), front, ball(front), turned)  # the same picture from everywhere
  assert billboard.color > 10 * good.color
  plane = dataclasses.replace(ball(front), depth=jnp.ones((1, SIZE, SIZE)))
  flat = view_errors(plane, front, plane, turned)
  assert flat.depth > 10 * good.depth
  repainted = dataclasses.replace(ball(turned), rgb=ball(turned).rgb - 0.1)
  np.testing.assert_allclose(view_errors(ball(front), front, repainted, turned).color, 0.1, atol=0.01)


def test_hidden_points_do_not_count_but_points_in_front_do():
  front, turned = cameras(0.0), cameras(YAW)
  wall = dataclasses.replace(ball(turned), depth=jnp.full((1, SIZE, SIZE), 0.9), rgb=jnp.zeros((1, SIZE, SIZE, 3)))
  assert view_errors(ball(front), front, wall, turned).share == 0
  behind = dataclasses.replace(ball(turned), depth=ball(turned).depth + 0.05)
  np.testing.assert_allclose(view_errors(ball(front), front, behind, turned).depth, 0.05, rtol=0.1)


def test_outside_the_other_picture_there_is_nothing_to_compare():
  front, turned = cameras(0.0), cameras(YAW)
  lean = dataclasses.replace(ball(turned), solid=jnp.zeros((1, SIZE, SIZE), bool))
  errors = view_errors(ball(front), front, lean, turned)
  assert errors.share == 0
  assert np.isnan(errors.color)
  assert np.isnan(errors.depth)


def test_weighted_variance_is_that_of_samples_counted_by_their_weights(rng):
  # Weights that are multiples of 1/s stand for s draws, whose unbiased variance this would be with s = draws.
  t = np.array([1.0, 2.0, 4.0, 7.0])
  counts = np.array([1, 2, 1, 0])
  expected = np.repeat(t, counts).var(ddof=1)
  variance, counted = weighted_variance((counts / 4).astype(np.float32), t.astype(np.float32))
  np.testing.assert_allclose(variance, expected, rtol=1e-3)
  assert counted
  _, counted = weighted_variance(np.float32([0.5, 0.48, 0, 0]), t.astype(np.float32))
  assert not counted


def test_pose_errors_are_angles():
  degrees = jnp.deg2rad(jnp.array([10.0, 0.0, 0.001]))
  zero = jnp.zeros(3)
  np.testing.assert_allclose(pose_error_deg(degrees, zero, zero, zero), [10, 0, 0.001], rtol=1e-3)
  np.testing.assert_allclose(pose_error_deg(zero, degrees, zero, zero), [10, 0, 0.001], rtol=1e-3)
  # Half way up a turn of the yaw is a smaller turn: cos(angle) = sin(p)^2 + cos(p)^2 cos(yaw).
  pitch = jnp.deg2rad(jnp.full(3, 60.0))
  expected = math.degrees(math.acos(0.75 + 0.25 * math.cos(math.radians(10))))
  np.testing.assert_allclose(pose_error_deg(degrees, pitch, zero, pitch)[0], expected, rtol=1e-3)
