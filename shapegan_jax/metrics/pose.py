"""How far estimated poses are from the true ones, in degrees."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from shapegan_jax.geometry.cameras import orbit_cameras

Angles = Float[Array | np.ndarray, "*b"]


def pose_error_deg(yaw: Angles, pitch: Angles, true_yaw: Angles, true_pitch: Angles) -> Float[Array, "*b"]:
  """The angle between the two cameras as seen from the object (all angles given in radians). There is no roll."""
  seen, true = (
    orbit_cameras(jnp.asarray(y), jnp.asarray(p), fov=1.0).cam2world[..., :3, 3]
    for y, p in ((yaw, pitch), (true_yaw, true_pitch))
  )
  # atan2 is accurate at small angles, where the arc cosine is not.
  return jnp.rad2deg(jnp.arctan2(jnp.linalg.norm(jnp.cross(seen, true), axis=-1), jnp.sum(seen * true, -1)))
