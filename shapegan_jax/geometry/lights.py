"""Light directions as angles: those of a camera at the position of the light.

direction = (sin azimuth cos elevation, sin elevation, cos azimuth cos elevation): azimuth 0 is the front, positive
towards +x; elevation is positive from above. Light codes can only represent directions with z > 0, so a light from
behind is represented by the opposite direction and a flag; callers then negate the normals for shading.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from shapegan_jax.types import Lights

_LEAST_Z = 1e-4  # smallest z of a direction; it moves a light exactly from the side by less than 0.01 degrees


def lights_from_angles(
  azimuth: float | int, elevation: float | int, ambient: ArrayLike, diffuse: ArrayLike
) -> tuple[Lights, bool]:
  """(lights, behind): lights from one direction (radians), and whether it is behind. Strengths are in [0, 1]."""
  x, y = math.sin(azimuth) * math.cos(elevation), math.sin(elevation)
  z = math.cos(azimuth) * math.cos(elevation)
  behind = z < 0
  along = (-1.0 if behind else 1.0) / max(abs(z), _LEAST_Z)
  strengths = (2 * np.asarray(strength, np.float64) - 1 for strength in (ambient, diffuse))
  code = np.stack(np.broadcast_arrays(*strengths, x * along, y * along), -1)
  return Lights(jnp.asarray(code, jnp.float32)), behind


def angles_from_lights(
  lights: Lights, *, behind: bool = False
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
  """(azimuth, elevation) in radians of lights [*b]: the inverse of `lights_from_angles`."""
  side = -1.0 if behind else 1.0
  x, y = np.moveaxis(side * np.asarray(lights.code, np.float64)[..., 2:], -1, 0)
  return np.arctan2(x, side), np.arctan2(y, np.hypot(x, 1.0))
