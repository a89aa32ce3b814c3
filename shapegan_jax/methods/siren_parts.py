"""What the FiLM-SIREN generators (pi-GAN, GOF, ShadeGAN) share: codes, field, pose prior, a batch of renderings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.geometry import cameras as camera_geometry
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import cast_rays, distance_to_depth
from shapegan_jax.methods.base import section
from shapegan_jax.networks.discriminators import ProgressiveDiscriminator, StridedDiscriminator
from shapegan_jax.networks.mapping import MappingNetwork
from shapegan_jax.networks.siren import FilmSiren, SphereStart
from shapegan_jax.rendering.volume import Compositor, Draws, Sampler, Window, render_rays, with_gradient
from shapegan_jax.types import Array, Cameras, Codes, FieldFn, FieldSamples, Key, Lights, PyTree, Rays, Rendering

ACCELERATOR_POINTS = 1 << 18
"""The points in flight that `device_chunk_points` chooses on an accelerator."""
_MEAN_CODE_LATENTS = 10_000  # pi-GAN averages the codes of this many latents for truncation


@dataclasses.dataclass(frozen=True)
class MappingConfig:
  """Latent size, hidden width and hidden layers of the mapping network."""

  latent_dim: int = 256
  hidden_dim: int = 256
  n_hidden: int = 3


@dataclasses.dataclass(frozen=True)
class FieldConfig:
  """Settings of the FiLM-SIREN; `sphere_start` None or {radius, sharpness, gain} in warped coordinates."""

  width: int = 256
  depth: int = 8
  view_condition: bool = True
  light_condition: bool = False
  frequency_scale: float = 15.0
  frequency_shift: float = 30.0
  warp_scale: float = 2 / 0.24
  init_constant: float = 25.0
  sine: str = "fast"
  compute_dtype: str = "float32"
  sphere_start: Mapping[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class CameraConfig:
  """The camera: field of view, the ray's range, the radius, and the prior of its pose (angles in radians)."""

  fov_deg: float = 12.0
  near: float = 0.88
  far: float = 1.12
  radius: float = 1.0
  prior: str = "gaussian"
  yaw: tuple[float, ...] = (0.0, 0.3)
  pitch: tuple[float, ...] = (0.0, 0.155)

  def pose_prior(self) -> Any:
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
    if self.prior == "spherical":
      return camera_geometry.SphericalUniformPose((yaw_a, yaw_b), (pitch_a, pitch_b))
    raise UserError(
      f"config.cameras.prior: {self.prior!r} is not one of gaussian, truncated_gaussian, hybrid, uniform, spherical"
    )

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
class RenderConfig:
  """How rays are sampled and composited. `fine` adds as many importance samples as there are coarse ones.

  `last` is the rule of the last interval ("far" or pi-GAN's "published" 1e10); `density_noise_steps` the step at
  which the density noise has faded (0: never any); `chunk_points` the points in flight (0: chosen for the device).
  `eval_samples` per pass replaces the stage's count at inference (0: the last stage's).
  """

  fine: bool = True
  clamp: str = "relu"
  last: str = "far"
  last_back: bool = False
  eval_last_back: bool = False
  background: float = 0.0
  normalise_distance: bool = True
  density_noise_steps: int = 5000
  eval_samples: int = 0
  chunk_points: int = 0


@dataclasses.dataclass(frozen=True)
class SirenGenerator:
  """Mapping network plus field. Parameters are {"mapping": ..., "field": ...}."""

  mapping: MappingNetwork
  field: FilmSiren

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> SirenGenerator:
    """From the sections `mapping` and `field`."""
    mapping = section(MappingConfig, config, "mapping")
    settings = dataclasses.asdict(section(FieldConfig, config, "field"))
    sphere = settings.pop("sphere_start")
    field = FilmSiren(**settings, sphere_start=SphereStart(**sphere) if sphere else None)
    return cls(
      mapping=MappingNetwork(
        out=2 * field.code_size,
        latent_dim=mapping.latent_dim,
        hidden_dim=mapping.hidden_dim,
        n_hidden=mapping.n_hidden,
      ),
      field=field,
    )

  @property
  def latent_dim(self) -> int:
    """Length of a latent."""
    return self.mapping.latent_dim

  def init(self, key: Key) -> PyTree:
    """Fresh parameters."""
    mapping_key, field_key = jax.random.split(key)
    return {
      "mapping": self.mapping.init_params(mapping_key)["params"],
      "field": self.field.init_params(field_key)["params"],
    }

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> tuple[Array, Array]:
    """Raw frequencies and phases [n, (depth + 1) * width], drawn towards their mean over latents by `truncation`.

    The mean is taken over a fixed set of latents, so that truncated pictures are reproducible (the originals redraw
    it).
    """
    given = isinstance(latents, Codes)
    codes = latents.values if given else self.mapping.apply({"params": params["mapping"]}, latents)
    if truncation == 1.0:
      return codes
    typical = jax.random.normal(jax.random.key(0), (_MEAN_CODE_LATENTS, self.latent_dim))
    mean = jax.tree.map(lambda code: code.mean(0), self.mapping.apply({"params": params["mapping"]}, typical))
    return jax.tree.map(lambda code, m: m[None] + truncation * (code - m[None]), codes, mean)

  def field_fn(self, params: PyTree, codes: tuple[Array, Array], light: Lights | None) -> FieldFn:
    """One instance's field: a closure over its codes and light."""
    light_code = light.code if self.field.light_condition else None

    def field(points: Array, viewdirs: Array) -> FieldSamples:
      raw, color = self.field.apply({"params": params["field"]}, points, viewdirs, *codes, light_code)
      return FieldSamples(raw=raw, color=color)

    return field


def make_critic(config: Mapping[str, Any]) -> Any:
  """The discriminator of the section `critic`: `kind` progressive (pi-GAN's, GOF's, ShadeGAN's) or strided (Cats)."""
  settings = dict(config["critic"])
  kind = settings.pop("kind")
  modules = {"progressive": ProgressiveDiscriminator, "strided": StridedDiscriminator}
  if kind not in modules:
    raise UserError(f"config.critic.kind: {kind!r} is not one of {', '.join(modules)}")
  try:
    return modules[kind](**settings)
  except TypeError as error:
    raise UserError(f"config.critic: {error}") from None


def device_chunk_points() -> int:
  """Points in flight: what a CPU's cache holds, or enough to keep an accelerator busy within its memory."""
  return 4096 if jax.default_backend() == "cpu" else ACCELERATOR_POINTS


def chunk_rays(n_rays: int, points_per_ray: int, batch: int, points: int) -> int:
  """Rays per chunk and instance for about `points` points in flight: a divisor of `n_rays` if it can be.

  `n_rays` rays of each of `batch` instances are rendered on a device.
  """
  wanted = max(1, points // max(1, points_per_ray * batch))
  if wanted >= n_rays:
    return n_rays
  divisors = [d for d in range(max(1, wanted // 2), wanted + 1) if n_rays % d == 0]
  return divisors[-1] if divisors else wanted


def render_instances(
  field_of: Callable[[PyTree, tuple[Array, Array], Lights | None], FieldFn],
  params: PyTree,
  codes: tuple[Array, Array],
  cameras: Cameras,
  rays: Rays,
  lights: Lights | None,
  sampler: Sampler,
  compositor: Compositor,
  *,
  resolution: int,
  draws: Draws,
  window: Window | None = None,
  gradient: bool = False,
  points: int,
) -> Rendering:
  """Render instance i, under light i, along its own rays from camera i: a `vmap` of the ray pipeline.

  Instances and rays are shared by the devices (`parallel.share_rays`), each of which has about `points` points in
  flight. `rays` are [b, resolution^2], those of a square picture or patch, which is [b, resolution, resolution, ...].
  """
  batch = rays.near.shape[0]

  def render_one(
    params: PyTree,
    of_instance: tuple[tuple[Array, Array], Lights | None, Array | None],
    of_rays: tuple[Rays, Draws, Array | None],
    chunk: int,
  ) -> Rendering:
    (codes, light, width), (rays, draws, centre) = of_instance, of_rays
    field = field_of(params, codes, light)
    return render_rays(
      with_gradient(field) if gradient else field,
      rays,
      sampler,
      compositor,
      draws=draws,
      hints=None if width is None else Window(centre, width),
      light=light,
      chunk=chunk,
    )

  def render_share(params: PyTree, instances: PyTree, of_rays: tuple[Rays, Draws, Array | None]) -> Rendering:
    b, n = of_rays[0].near.shape
    chunk = chunk_rays(n, sampler.points_per_ray, b, points)
    return jax.vmap(partial(render_one, chunk=chunk), in_axes=(None, 0, 0))(params, instances, of_rays)

  width = None if window is None else jnp.broadcast_to(window.width, (batch,))  # one for all, as an axis to map over
  centre = None if window is None else window.centre
  flat = parallel.share_rays(render_share, params, (codes, lights, width), (rays, draws, centre))
  depth = distance_to_depth(flat.distance, cameras, rays.viewdirs)
  flat = dataclasses.replace(flat, depth=depth)
  return jax.tree.map(lambda leaf: leaf.reshape(batch, resolution, resolution, *leaf.shape[2:]), flat)
