from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.depthmaps import normals_from_depth, points_from_depth
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.relief import (
  PUBLISHED_EPSILON,
  ReliefCamera,
  camera_poses,
  lights_to_world,
  move,
  move_back,
  normals_to_world,
  points_to_world,
  project,
  relief_normals,
  rotations,
  unproject,
)
from shapegan_jax.metrics.depth_errors import normals
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.types import Lights

CAMERA = ReliefCamera(17, fov_deg=12.0, centre=1.1)
VIEWS = jnp.array([[0.3, -0.7, 0.2, 0.02, -0.01, 0.03], [-0.2, 0.5, 0.1, -0.03, 0.02, 0.01]])


@pytest.fixture
def depth(rng):
  return jnp.asarray(rng.uniform(1.0, 1.2, (2, 17, 17)), jnp.float32)


def test_the_outermost_pixels_span_the_field_of_view_and_projection_undoes_unprojection(depth):
  assert CAMERA.focal * CAMERA.slope == pytest.approx(8)
  points = unproject(CAMERA, depth)
  np.testing.assert_allclose(points[..., 2], depth)
  angle = np.arctan2(points[:, :, -1, 0], points[:, :, -1, 2])
  np.testing.assert_allclose(angle, math.radians(6.0), rtol=1e-6)
  seen = project(CAMERA, points)
  np.testing.assert_allclose(
    seen, jnp.broadcast_to(pixel_grid(17, 17) * jnp.array([[[1.0, -1.0]]]), seen.shape), atol=1e-6
  )


def test_views_turn_about_x_then_y_then_z_about_the_centre_and_then_shift(depth):
  points = np.asarray(unproject(CAMERA, depth), np.float64)
  for n, (rx, ry, rz, *shift) in enumerate(np.asarray(VIEWS, np.float64)):
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in (rx, ry, rz))
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    middle = np.array([0, 0, 1.1])
    expected = (points[n] - middle) @ (turn_z @ turn_y @ turn_x).T + middle + shift
    np.testing.assert_allclose(move(unproject(CAMERA, depth), VIEWS, centre=1.1)[n], expected, atol=1e-6)
  moved = move(unproject(CAMERA, depth), VIEWS, centre=1.1)
  np.testing.assert_allclose(move_back(moved, VIEWS, centre=1.1), points, atol=1e-6)
  np.testing.assert_allclose(jnp.linalg.det(rotations(VIEWS)), 1, rtol=1e-6)


def test_normals_are_those_of_the_metric_and_their_gradient_is_finite_on_a_flat_map(depth):
  for epsilon in (0.0, PUBLISHED_EPSILON):
    found = relief_normals(CAMERA, depth, epsilon=epsilon)
    np.testing.assert_allclose(found, normals(depth, fov=math.radians(12.0), epsilon=epsilon), atol=1e-6)
  flat = jnp.ones((17, 17))
  np.testing.assert_array_equal(relief_normals(CAMERA, flat)[0], jnp.broadcast_to(jnp.array([0.0, 0, 1]), (17, 3)))
  assert np.all(np.isfinite(jax.grad(lambda d: relief_normals(CAMERA, d)[..., 0].sum())(flat)))


def test_in_the_world_points_and_normals_are_those_of_the_frontal_camera(depth):
  front = orbit_cameras(jnp.zeros(2), jnp.zeros(2), fov=math.radians(12.0), radius=1.1)
  np.testing.assert_allclose(
    points_to_world(CAMERA, unproject(CAMERA, depth)), points_from_depth(depth, front, pixel_grid(17, 17)), atol=1e-6
  )
  outward = normals_to_world(relief_normals(CAMERA, depth))
  expected = normals_from_depth(depth, front, pixel_grid(17, 17))
  np.testing.assert_allclose(outward[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-5)


def test_shading_is_the_same_in_both_frames_and_a_positive_fourth_number_lights_from_above(rng):
  row, column = jnp.meshgrid(jnp.arange(17.0), jnp.arange(17.0), indexing="ij")
  bump = (1.0 + 1e-4 * ((row - 8) ** 2 + (column - 8) ** 2))[None]
  inward = relief_normals(CAMERA, bump)
  code, albedo = jnp.array([[-1.0, 1.0, -0.4, 0.8]]), jnp.full((1, 17, 17, 3), 0.5)
  _, shading = lambertian(albedo, inward, Lights(code))
  _, world = lambertian(albedo, normals_to_world(inward), Lights(lights_to_world(code)))
  np.testing.assert_allclose(shading, world, atol=1e-6)
  inner = shading[0, 1:-1, 1:-1, 0]
  assert jnp.all(inner[:7] > inner[:7:-1])
  # A light that goes to the left comes from the right, where +x is in the world.
  assert jnp.all(inner[:, :7] < inner[:, :7:-1])
  assert lights_to_world(code)[0, 2] > 0


def test_a_views_pose_is_where_the_camera_is_to_the_relief():
  views = jnp.concatenate([VIEWS.at[:, 3:].set(0), jnp.array([[0, 0.4, 0, 0, 0, 0], [0.3, 0, 0, 0, 0, 0]])])
  yaw, pitch = camera_poses(views)
  place = move_back(jnp.zeros((4, 1, 1, 3)), views, centre=1.1)[:, 0, 0]
  expected = orbit_cameras(yaw, pitch, fov=0.2, radius=1.1).cam2world[:, :3, 3]
  np.testing.assert_allclose(points_to_world(CAMERA, place), expected, atol=1e-6)
  np.testing.assert_allclose(yaw[2:], [0.4, 0], atol=1e-6)
  np.testing.assert_allclose(pitch[2:], [0, 0.3], atol=1e-6)
