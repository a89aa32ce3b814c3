"""Angles of lights and their codes are each other's inverse, also from behind."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.lights import angles_from_lights, lights_from_angles
from shapegan_jax.types import Lights


@pytest.mark.parametrize("azimuth", [-170.0, -95.0, -60.0, 0.0, 33.0, 80.0, 130.0])
@pytest.mark.parametrize("elevation", [-75.0, 0.0, 20.0, 70.0])
def test_angles_come_back(azimuth, elevation):
  lights, behind = lights_from_angles(
    np.radians(azimuth), np.radians(elevation), np.array([0.2, 0.4]), np.array([0.5, 0.9])
  )
  assert behind == (abs(azimuth) > 90)
  np.testing.assert_allclose(lights.ambient, [0.2, 0.4], atol=1e-6)
  np.testing.assert_allclose(lights.diffuse, [0.5, 0.9], atol=1e-6)
  found = angles_from_lights(lights, behind=behind)
  np.testing.assert_allclose(np.degrees(found), [[azimuth] * 2, [elevation] * 2], atol=1e-4)


def test_codes_come_back(rng):
  lights = Lights(jnp.asarray(rng.uniform(-0.9, 0.9, (5, 4)), jnp.float32))
  for i, (azimuth, elevation) in enumerate(zip(*angles_from_lights(lights), strict=True)):
    again, behind = lights_from_angles(azimuth, elevation, lights.ambient[i], lights.diffuse[i])
    assert not behind
    np.testing.assert_allclose(again.code, lights.code[i], atol=1e-6)


def test_a_light_shines_from_where_a_camera_of_its_angles_stands():
  lights, _ = lights_from_angles(0.5, -0.4, 0.3, 0.6)
  camera = orbit_cameras(jnp.array([0.5]), jnp.array([-0.4]), fov=0.2)
  np.testing.assert_allclose(lights.direction, camera.cam2world[0, :3, 2], atol=1e-6)


@pytest.mark.parametrize(("azimuth", "elevation"), [(90.0, 0.0), (-90.0, 30.0), (0.0, 90.0), (20.0, -90.0)])
def test_a_light_from_the_side_or_straight_above_is_moved_by_a_hundredth_of_a_degree(azimuth, elevation):
  a, e = np.radians([azimuth, elevation])
  lights, behind = lights_from_angles(a, e, 0.0, 1.0)
  wanted = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
  found = np.asarray(lights.direction) * (-1 if behind else 1)
  assert np.degrees(np.linalg.norm(found - wanted)) < 0.01
