"""The pose prior and the rays of a picture: the section `cameras`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from shapegan_jax.errors import UserError
from shapegan_jax.geometry import cameras as camera_geometry
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import cast_rays, depth_to_distance
from shapegan_jax.rng import stream
from shapegan_jax.types import Array, Cameras, Key, Rays


@dataclasses.dataclass(frozen=True)
class CameraConfig:
  """The camera: field of view, the ray's range, the radius, and the prior of its pose (angles in radians)."""

  fov_deg: float = 12.0
  near: float = 0.88
  far: float = 1.12
  radius: float = 1.0
  prior: Literal["gaussian", "truncated_gaussian", "hybrid", "uniform", "spherical"] = "gaussian"
  yaw: tuple[float, float] = (0.0, 0.3)
  pitch: tuple[float, float] = (0.0, 0.155)

  align: ClassVar[str] = "corners"

  def __post_init__(self):
    if not 0 <= self.near < self.far:
      raise UserError(f"config.cameras: near {self.near:g} and far {self.far:g} must be ascending and not negative")

  @property
  def largest_radius(self) -> float:
    """The distance of the farthest camera."""
    return self.radius

  def pose_prior(self) -> camera_geometry.PosePrior:
    """gaussian, truncated_gaussian, hybrid: (mean, std); uniform: (mean, half width); spherical: (low, high)."""
    (yaw_a, yaw_b), (pitch_a, pitch_b) = self.yaw, self.pitch
    if self.prior == "gaussian":
      return camera_geometry.GaussianPose(yaw_b, pitch_b, yaw_a, pitch_a)
    if self.prior == "truncated_gaussian":
      return camera_geometry.TruncatedGaussianPose(yaw_b, pitch_b, yaw_a, pitch_a)
    if self.prior == "hybrid":
      return camera_geometry.HybridPose(yaw_b, pitch_b, yaw_a, pitch_a)
    if self.prior == "uniform":
      return camera_geometry.UniformPose(yaw_b, pitch_b, yaw_a, pitch_a)
    return camera_geometry.SphericalUniformPose((yaw_a, yaw_b), (pitch_a, pitch_b))

  def sample(self, key: Key | None, n: int) -> Cameras:
    """[n] cameras from the prior; `key=None`: at its centre."""
    return self.at(*self.pose_prior().sample(key, (n,)))

  def at(self, yaw: Array, pitch: Array) -> Cameras:
    """Cameras at these angles."""
    return camera_geometry.orbit_cameras(yaw, pitch, fov=jnp.deg2rad(self.fov_deg), radius=self.radius)

  def picture_rays(self, cameras: Cameras, resolution: int) -> Rays:
    """Every pixel's ray, [b, resolution^2], rows from the top."""
    pixels = pixel_grid(resolution, resolution).reshape(-1, 2)
    return cast_rays(cameras, pixels, near=self.near, far=self.far)


@dataclasses.dataclass(frozen=True)
class PatchCameraConfig(CameraConfig):
  """A camera that may vary its distance, U(radius, radius_max), 0: it does not.

  `near` and `far` are given for the largest distance and follow the camera. With `planar_range` they are depths along
  the optical axis, as the authors', otherwise distances along each ray. `align` says where pixels lie
  (`geometry.pixels.Align`).
  """

  radius_max: float = 0.0
  planar_range: bool = False
  align: Literal["corners", "centres", "left"] = "corners"

  @property
  def largest_radius(self) -> float:
    return max(self.radius, self.radius_max)

  def sample(self, key: Key | None, n: int) -> Cameras:
    if key is None:
      return super().sample(None, n)
    yaw, pitch = self.pose_prior().sample(key, (n,))
    low, high = self.radius, self.largest_radius
    radius = jax.random.uniform(stream(key, "radius"), (n,), minval=low, maxval=high)
    return orbit_cameras(yaw, pitch, fov=jnp.deg2rad(self.fov_deg), radius=radius)

  def picture_rays(self, cameras: Cameras, resolution: int) -> Rays:
    pixels = pixel_grid(resolution, resolution, align=self.align).reshape(-1, 2)
    return self.cast(cameras, jnp.broadcast_to(pixels, (*cameras.fov.shape, *pixels.shape)))

  def cast(self, cameras: Cameras, points: Float[Array, "b n 2"]) -> Rays:
    """Rays [b, n] through each camera's own image points."""

    def cast_one(camera: Cameras, points: Array) -> Rays:
      shift = camera.radius - self.largest_radius
      rays = cast_rays(camera, points, near=self.near + shift, far=self.far + shift)
      if not self.planar_range:
        return rays
      near, far = (depth_to_distance(depth, camera, rays.viewdirs) for depth in (rays.near, rays.far))
      return dataclasses.replace(rays, near=near, far=far)

    return jax.vmap(cast_one)(cameras, points)
