"""How far estimated poses and lights are from the true ones, in degrees."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.types import Lights

Angles = Float[Array | np.ndarray, "*b"]


def pose_error_deg(yaw: Angles, pitch: Angles, true_yaw: Angles, true_pitch: Angles) -> Float[Array, "*b"]:
  """The angle between the two cameras as seen from the object (all angles given in radians). Roll is none here."""
  seen, true = (
    orbit_cameras(jnp.asarray(y), jnp.asarray(p), fov=1.0).cam2world[..., :3, 3]
    for y, p in ((yaw, pitch), (true_yaw, true_pitch))
  )
  return _angle_deg(seen, true)


def light_error_deg(lights: Lights, true: Lights) -> Float[Array, "*b"]:
  """The angle between the directions towards two lights; their strengths do not count."""
  return _angle_deg(lights.direction, true.direction)


def _angle_deg(a: Array, b: Array) -> Array:
  # atan2 keeps its digits at small angles, where the arc cosine has none.
  return jnp.rad2deg(jnp.arctan2(jnp.linalg.norm(jnp.cross(a, b), axis=-1), jnp.sum(a * b, -1)))
