from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.depthmaps import normals_from_depth, points_from_depth
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import cast_rays, depth_to_distance, distance_to_depth, rotate_to_world

PIXELS = pixel_grid(48, 64)
CAMERAS = orbit_cameras(jnp.array([0.0, 0.5, -0.3]), jnp.array([0.0, 0.2, -0.4]), fov=jnp.array([0.2, 0.3, 0.25]))
RAYS = cast_rays(CAMERAS, PIXELS, near=0.88, far=1.12)
RADIUS = 0.08


def sphere():
  """Depth [3, 48, 64] of a sphere at the origin, the points hit and where: |o + t d| = r."""
  b = jnp.sum(RAYS.origins * RAYS.directions, -1)
  discriminant = b * b - (jnp.sum(RAYS.origins**2, -1) - RADIUS**2)
  distance = -b - jnp.sqrt(jnp.maximum(discriminant, 0))
  points = RAYS.origins + distance[..., None] * RAYS.directions
  # At a grazing ray the depth has no derivative: keep the pixels whose ray passes within 0.8 radii of the middle.
  return distance_to_depth(distance, CAMERAS, RAYS.viewdirs), points, discriminant > (1 - 0.8**2) * RADIUS**2


def test_points_lie_on_their_rays():
  depth = jnp.linspace(0.8, 1.2, 3 * 48 * 64).reshape(3, 48, 64)
  on_rays = RAYS.origins + depth_to_distance(depth, CAMERAS, RAYS.viewdirs)[..., None] * RAYS.directions
  np.testing.assert_allclose(points_from_depth(depth, CAMERAS, PIXELS), on_rays, atol=1e-6)
  in_camera = points_from_depth(depth, CAMERAS, PIXELS, frame="camera")
  np.testing.assert_array_equal(in_camera[..., 2], -depth)


def test_normals_of_a_sphere_point_from_its_middle():
  depth, points, inside = sphere()
  normals = normals_from_depth(depth, CAMERAS, PIXELS)
  np.testing.assert_allclose(jnp.linalg.norm(normals, axis=-1), 1, rtol=1e-5)
  cosine = jnp.sum(normals * points, -1) / RADIUS
  angles = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))[np.asarray(inside)]
  # Central differences err by slope'' h^2 / 6: at most 0.6 degrees at 0.8 radii with a spacing of 0.04 to 0.08 radii.
  assert inside.sum() > 1500
  assert angles.max() < 0.7
  assert np.median(angles) < 0.2


def test_normals_of_a_plane_are_exact_up_to_the_borders():
  normal = jnp.broadcast_to(jnp.array([0.3, -0.2, 1.0]) / jnp.sqrt(1.13), RAYS.directions.shape)
  offset = jnp.sum(RAYS.origins * normal, -1)
  depth = distance_to_depth(-offset / jnp.sum(RAYS.directions * normal, -1), CAMERAS, RAYS.viewdirs)
  normals = normals_from_depth(depth, CAMERAS, PIXELS)
  np.testing.assert_allclose(normals, normal, atol=2e-4)


def test_frames_differ_by_the_cameras_rotation_and_all_normals_face_the_camera():
  depth, _, _ = sphere()
  in_camera = normals_from_depth(depth, CAMERAS, PIXELS, frame="camera")
  np.testing.assert_allclose(rotate_to_world(in_camera, CAMERAS), normals_from_depth(depth, CAMERAS, PIXELS), atol=1e-6)
  flat = normals_from_depth(jnp.ones((3, 48, 64)), CAMERAS, PIXELS, frame="camera")
  np.testing.assert_allclose(flat, jnp.broadcast_to(jnp.array([0.0, 0, 1]), flat.shape), atol=1e-6)
