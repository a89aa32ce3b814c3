from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.geometry.cameras import (
  GaussianPose,
  HybridPose,
  SphericalUniformPose,
  TruncatedGaussianPose,
  UniformPose,
  from_polar,
  orbit_cameras,
  to_polar,
)

YAW = jnp.array([0.0, 0.3, -1.2, 3.0, 0.7])
PITCH = jnp.array([0.0, -0.4, 0.9, 0.2, math.pi / 2])


def test_the_frontal_camera_sits_at_0_0_radius_without_rotation():
  cameras = orbit_cameras(jnp.zeros(()), jnp.zeros(()), fov=0.2, radius=2.0)
  np.testing.assert_array_equal(cameras.cam2world[:3, :3], np.eye(3))
  np.testing.assert_array_equal(cameras.cam2world[:, 3], [0, 0, 2, 1])


def test_positive_yaw_moves_to_plus_x_and_positive_pitch_up():
  cameras = orbit_cameras(jnp.array([0.3, 0.0]), jnp.array([0.0, 0.3]), fov=0.2)
  x, y = cameras.cam2world[:, 0, 3], cameras.cam2world[:, 1, 3]
  np.testing.assert_allclose([x[0], y[1]], math.sin(0.3), rtol=1e-6)
  np.testing.assert_allclose([x[1], y[0]], 0, atol=1e-7)


def test_every_camera_is_a_rotation_that_looks_at_the_origin_with_y_up():
  cameras = orbit_cameras(YAW, PITCH, fov=0.2, radius=1.5)
  rotation, position = np.asarray(cameras.cam2world[:, :3, :3]), cameras.cam2world[:, :3, 3]
  identity = np.broadcast_to(np.eye(3), (5, 3, 3))
  np.testing.assert_allclose(rotation @ np.swapaxes(rotation, -1, -2), identity, atol=1e-6)
  np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
  np.testing.assert_allclose(position - 1.5 * rotation[:, :, 2], 0, atol=1e-6)  # one radius along -z: the origin
  assert (rotation[:, 1, 1] >= -1e-6).all()
  np.testing.assert_allclose(rotation[:, 1, 0], 0, atol=1e-7)  # no roll: right stays horizontal


def test_polar_angles_are_pi_gans():
  polar_pitch, polar_yaw = to_polar(YAW, PITCH)
  position = jnp.stack(
    [jnp.sin(polar_pitch) * jnp.cos(polar_yaw), jnp.cos(polar_pitch), jnp.sin(polar_pitch) * jnp.sin(polar_yaw)], -1
  )
  np.testing.assert_allclose(orbit_cameras(YAW, PITCH, fov=0.2).cam2world[:, :3, 3], position, atol=1e-6)
  np.testing.assert_allclose(from_polar(polar_pitch, polar_yaw), (YAW, PITCH), atol=1e-6)
  np.testing.assert_allclose(to_polar(jnp.zeros(()), jnp.zeros(())), math.pi / 2)


def test_the_pose_has_a_finite_gradient_at_the_poles():
  def frame(yaw, pitch):
    return orbit_cameras(yaw, pitch, fov=0.2).cam2world

  derivative = jax.jacfwd(frame, argnums=(0, 1))(jnp.float32(0.4), jnp.float32(math.pi / 2))
  assert all(np.isfinite(d).all() and np.abs(d).max() > 0.1 for d in derivative)


def assert_moments(samples, mean, std, kurtosis):
  """Within five standard errors; that of a deviation is std sqrt((kurtosis - 1) / 4 n)."""
  n = samples.size
  assert abs(np.mean(samples) - mean) < 5 * std / math.sqrt(n)
  assert abs(np.std(samples) - std) < 5 * std * math.sqrt((kurtosis - 1) / (4 * n))


def test_pose_priors_have_the_mean_and_deviation_they_state(key):
  shape = (100, 200)
  # The deviation of a unit Gaussian cut at 2: 1 - 2 * 2 phi(2) / (Phi(2) - Phi(-2)).
  cut = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
  mixed = math.sqrt((1 + 4 / 3) / 2)
  for prior, factor, kurtosis in [
    (GaussianPose(0.3, 0.155, 0.1, -0.2), 1, 3),
    (TruncatedGaussianPose(0.3, 0.155, 0.1, -0.2), cut, 3),
    (UniformPose(0.3, 0.155, 0.1, -0.2), 1 / math.sqrt(3), 1.8),
    (HybridPose(0.3, 0.155, 0.1, -0.2), mixed, 3),
  ]:
    yaw, pitch = prior.sample(key, shape)
    assert yaw.shape == pitch.shape == shape
    assert_moments(np.asarray(yaw), 0.1, 0.3 * factor, kurtosis)
    assert_moments(np.asarray(pitch), -0.2, 0.155 * factor, kurtosis)
    assert abs(np.corrcoef(yaw.ravel(), pitch.ravel())[0, 1]) < 5 / math.sqrt(yaw.size)
    np.testing.assert_allclose(prior.sample(None, (2,)), [[0.1, 0.1], [-0.2, -0.2]], rtol=1e-6)
  assert np.abs(UniformPose(0.3, 0.155).sample(key, shape)[0]).max() <= 0.3
  assert np.abs(TruncatedGaussianPose(0.3, 0.155).sample(key, shape)[0]).max() <= 0.6


def test_spherical_poses_are_uniform_on_the_area(key):
  prior = SphericalUniformPose((-math.pi, math.pi), (0.0556, math.pi / 2))  # pi-GAN's CARLA
  yaw, pitch = prior.sample(key, (20_000,))
  low = math.sin(0.0556)
  assert_moments(np.asarray(yaw), 0, math.pi / math.sqrt(3), 1.8)
  assert_moments(np.sin(pitch), (low + 1) / 2, (1 - low) / math.sqrt(12), 1.8)
  polar_pitch, _ = to_polar(yaw, pitch)
  assert np.rad2deg(polar_pitch.min()) >= 0
  assert 86.3 < np.rad2deg(polar_pitch.max()) < 86.85


def test_poses_never_pass_the_pole(key):
  _, pitch = GaussianPose(0.1, 3.0).sample(key, (1000,))
  assert np.abs(pitch).max() < math.pi / 2
