from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import (
  cast_rays,
  depth_to_distance,
  distance_to_depth,
  rotate_to_world,
)

FOV = np.deg2rad(12.0)


def cameras_and_rays(near=0.88, far=1.12):
  yaw, pitch = jnp.array([[0.0, 0.4, -0.3]] * 2), jnp.array([[0.0, 0.1, -0.5]] * 2)
  cameras = orbit_cameras(yaw, pitch, fov=jnp.array([[FOV, 0.3, 0.5]] * 2), radius=1.3)
  return cameras, cast_rays(cameras, pixel_grid(5, 7), near=near, far=far)


def test_rays_have_the_shape_of_cameras_times_pixels_and_unit_directions():
  _, rays = cameras_and_rays()
  assert rays.origins.shape == rays.directions.shape == rays.viewdirs.shape == (2, 3, 5, 7, 3)
  assert rays.near.shape == rays.far.shape == (2, 3, 5, 7)
  np.testing.assert_allclose(jnp.linalg.norm(rays.directions, axis=-1), 1, rtol=1e-6)
  np.testing.assert_array_equal(rays.directions, rays.viewdirs)
  np.testing.assert_allclose([rays.near[0, 0, 0, 0], rays.far[1, 2, 4, 6]], [0.88, 1.12], rtol=1e-6)


def test_the_middle_ray_meets_the_origin_after_one_radius():
  _, rays = cameras_and_rays()
  np.testing.assert_allclose((rays.origins + 1.3 * rays.directions)[..., 2, 3, :], 0, atol=1e-6)


def test_the_published_numbers_of_a_12_degree_camera():
  camera = orbit_cameras(jnp.zeros(()), jnp.zeros(()), fov=FOV)
  rays = cast_rays(camera, jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), near=0.88, far=1.12)
  at_depth_1 = rays.origins + depth_to_distance(jnp.ones(3), camera, rays.viewdirs)[:, None] * rays.directions
  np.testing.assert_allclose(at_depth_1, [[0.10510, 0, 0], [0, 0.10510, 0], [0.10510, 0.10510, 0]], atol=5e-6)
  np.testing.assert_allclose(-rays.viewdirs[2, 2], 0.9891, atol=5e-5)  # cosine of the corner ray
  np.testing.assert_allclose(at_depth_1[0, 0] * 2 / 0.24, 0.876, atol=5e-4)  # in the coordinates of a field's box


def test_depth_is_the_length_along_the_optical_axis_and_the_round_trip_returns():
  cameras, rays = cameras_and_rays()
  distance = jnp.linspace(0.9, 1.5, 2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
  depth = distance_to_depth(distance, cameras, rays.viewdirs)
  points = rays.origins + distance[..., None] * rays.directions
  homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1)
  in_camera = np.einsum("abij,abhwj->abhwi", np.linalg.inv(cameras.cam2world), homogeneous)
  np.testing.assert_allclose(depth, -in_camera[..., 2], rtol=1e-5)
  np.testing.assert_allclose(depth_to_distance(depth, cameras, rays.viewdirs), distance, rtol=1e-6)
  assert (depth[..., 0, 0] < distance[..., 0, 0]).all()


def test_a_batch_of_cameras_is_each_camera_alone():
  cameras, rays = cameras_and_rays()
  one = jax.tree.map(lambda leaf: leaf[1, 2], cameras)
  alone = cast_rays(one, pixel_grid(5, 7).reshape(35, 2), near=0.88, far=1.12)
  np.testing.assert_allclose(alone.directions.reshape(5, 7, 3), rays.directions[1, 2], atol=1e-7)
  np.testing.assert_allclose(alone.origins.reshape(5, 7, 3), rays.origins[1, 2], atol=1e-7)


def test_turning_the_camera_turns_its_rays():
  cameras, rays = cameras_and_rays()
  rotation = np.asarray(cameras.cam2world[..., :3, :3])
  in_camera = np.einsum("abji,abhwj->abhwi", rotation, rays.directions)
  np.testing.assert_allclose(rotate_to_world(jnp.asarray(in_camera), cameras), rays.directions, atol=1e-6)
  np.testing.assert_allclose(in_camera[0], in_camera[1], atol=1e-6)
  focal = -in_camera[..., 0, 0, 2] / in_camera[..., 0, 0, 1]  # z over y at the top edge
  np.testing.assert_allclose(focal, 1 / np.tan(cameras.fov / 2), rtol=1e-5)
