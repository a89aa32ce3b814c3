"""Cameras on a sphere around the object, and the priors their poses are drawn from.

Angles are in radians. `yaw = pitch = 0` is the frontal view from (0, 0, radius); positive yaw moves the camera towards
+x, positive pitch moves it up. pi-GAN and the methods based on it use polar angles instead; only `to_polar` and
`from_polar` convert between the two.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from shapegan_jax.types import Cameras, Key

# Beyond the pole a camera would be on the other side of the sphere, with its image upside down.
MAX_PITCH = math.pi / 2 - 1e-5


def orbit_cameras(
  yaw: Float[Array, "*b"], pitch: Float[Array, "*b"], *, fov: ArrayLike, radius: ArrayLike = 1.0
) -> Cameras:
  """Cameras at `radius` (world units) that look at the origin with the world's y axis up.

  position = radius (sin yaw cos pitch, sin pitch, cos yaw cos pitch). The rotation is in closed form, without cross
  products with "up", so it and its gradient are defined at the poles too. `fov` is the full vertical angle.
  """
  fov = jnp.broadcast_to(jnp.asarray(fov, yaw.dtype), yaw.shape)
  radius = jnp.broadcast_to(jnp.asarray(radius, yaw.dtype), yaw.shape)
  sin_yaw, cos_yaw = jnp.sin(yaw), jnp.cos(yaw)
  sin_pitch, cos_pitch = jnp.sin(pitch), jnp.cos(pitch)
  zero, one = jnp.zeros_like(yaw), jnp.ones_like(yaw)
  right = jnp.stack([cos_yaw, zero, -sin_yaw, zero], -1)
  up = jnp.stack([-sin_pitch * sin_yaw, cos_pitch, -sin_pitch * cos_yaw, zero], -1)
  back = jnp.stack([sin_yaw * cos_pitch, sin_pitch, cos_yaw * cos_pitch, zero], -1)
  position = radius[..., None] * back + jnp.stack([zero, zero, zero, one], -1)
  return Cameras(cam2world=jnp.stack([right, up, back, position], -1), fov=fov, yaw=yaw, pitch=pitch, radius=radius)


def to_polar(yaw: Float[Array, "*b"], pitch: Float[Array, "*b"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
  """pi-GAN's (polar_pitch, polar_yaw): pi/2 - pitch is the angle from +y, pi/2 - yaw the angle from +x towards +z."""
  return math.pi / 2 - pitch, math.pi / 2 - yaw


def from_polar(
  polar_pitch: Float[Array, "*b"], polar_yaw: Float[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
  """pi-GAN's (polar_pitch, polar_yaw) -> (yaw, pitch): the inverse of `to_polar`."""
  return math.pi / 2 - polar_yaw, math.pi / 2 - polar_pitch


@runtime_checkable
class PosePrior(Protocol):
  """A distribution of camera poses; `sample` returns (yaw, pitch) in radians. `key=None` gives the prior's centre."""

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> tuple[Array, Array]: ...


@dataclasses.dataclass(frozen=True)
class GaussianPose:
  """Independent Gaussians, in radians (pi-GAN on faces: 0.3 and 0.155). Standard deviations of 0 fix the pose."""

  yaw_std: float
  pitch_std: float
  yaw_mean: float = 0.0
  pitch_mean: float = 0.0

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> tuple[Array, Array]:
    unit = jnp.zeros((2, *shape)) if key is None else jax.random.normal(key, (2, *shape))
    return _pose(unit, self.yaw_std, self.pitch_std, self.yaw_mean, self.pitch_mean)


@dataclasses.dataclass(frozen=True)
class TruncatedGaussianPose:
  """Gaussians truncated at two standard deviations; the resulting standard deviation is 0.8796 of the given one."""

  yaw_std: float
  pitch_std: float
  yaw_mean: float = 0.0
  pitch_mean: float = 0.0

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> tuple[Array, Array]:
    unit = jnp.zeros((2, *shape)) if key is None else jax.random.truncated_normal(key, -2.0, 2.0, (2, *shape))
    return _pose(unit, self.yaw_std, self.pitch_std, self.yaw_mean, self.pitch_mean)


@dataclasses.dataclass(frozen=True)
class UniformPose:
  """Uniform in mean +- halfwidth, in radians (pi-GAN on cats: 0.5 and 0.4); the std is halfwidth / sqrt(3)."""

  yaw_halfwidth: float
  pitch_halfwidth: float
  yaw_mean: float = 0.0
  pitch_mean: float = 0.0

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> tuple[Array, Array]:
    unit = jnp.zeros((2, *shape)) if key is None else jax.random.uniform(key, (2, *shape), minval=-1.0, maxval=1.0)
    return _pose(unit, self.yaw_halfwidth, self.pitch_halfwidth, self.yaw_mean, self.pitch_mean)


@dataclasses.dataclass(frozen=True)
class HybridPose:
  """pi-GAN's mixture: half Gaussian, half uniform in mean +- 2 std; chosen per camera (in the release: per batch)."""

  yaw_std: float
  pitch_std: float
  yaw_mean: float = 0.0
  pitch_mean: float = 0.0

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> tuple[Array, Array]:
    if key is None:
      unit = jnp.zeros((2, *shape))
    else:
      choice_key, normal_key, uniform_key = jax.random.split(key, 3)
      gaussian = jax.random.bernoulli(choice_key, 0.5, (1, *shape))
      normal = jax.random.normal(normal_key, (2, *shape))
      uniform = jax.random.uniform(uniform_key, (2, *shape), minval=-2.0, maxval=2.0)
      unit = jnp.where(gaussian, normal, uniform)
    return _pose(unit, self.yaw_std, self.pitch_std, self.yaw_mean, self.pitch_mean)


@dataclasses.dataclass(frozen=True)
class SphericalUniformPose:
  """Uniform by area on the part of the sphere between two yaws and two pitches, in radians.

  The area element is d yaw d sin(pitch), so sin(pitch) is sampled uniformly. pi-GAN's prior for CARLA is
  `yaw_range=(-pi, pi)`, `pitch_range=(0.0556, pi/2)` (polar angles 0 to 86.8 degrees).
  """

  yaw_range: tuple[float, float]
  pitch_range: tuple[float, float]

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> tuple[Array, Array]:
    unit = jnp.full((2, *shape), 0.5) if key is None else jax.random.uniform(key, (2, *shape))
    low, high = math.sin(self.pitch_range[0]), math.sin(self.pitch_range[1])
    yaw = self.yaw_range[0] + (self.yaw_range[1] - self.yaw_range[0]) * unit[0]
    return yaw, jnp.clip(jnp.arcsin(low + (high - low) * unit[1]), -MAX_PITCH, MAX_PITCH)


def _pose(unit: Array, yaw_scale: float, pitch_scale: float, yaw_mean: float, pitch_mean: float) -> tuple[Array, Array]:
  return yaw_mean + yaw_scale * unit[0], jnp.clip(pitch_mean + pitch_scale * unit[1], -MAX_PITCH, MAX_PITCH)
