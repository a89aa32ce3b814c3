"""GRAF: generative radiance fields for 3D-aware image synthesis (Schwarz et al., NeurIPS 2020, arXiv 2007.02442).

A NeRF conditioned on two codes, one for shape and one for appearance, is rendered from a random pose, but never as a
whole: a K x K patch of random position and scale is, and a discriminator compares it with patches drawn in the same way
from real pictures. So the cost of a step does not depend on the resolution, and early patches show the whole object at
a coarse scale, later ones its details.

Implemented (section 3.2): the field, whose density depends on position and shape code, its colour also on direction and
appearance code; patches at scale s ~ U(s_min, 1), whose places lie between pixels; volume rendering; the non-saturating
loss with R1. The range of scales widens while training.

What differs from the authors' code (MIT; nothing of it is copied): rays are unit and in our y-up world, and `near` and
`far` are multiplied by a ray's length along the optical axis instead (`cameras.planar_range`), which is the same; the
field turns points into their frame before it encodes them (`field.z_up`). Spectral norm takes one step of power
iteration per update; theirs one per forward pass. R1 is per patch: their weight of 10 is divided by the pixels of a
patch by a slip of axes, which `configs/graf.py` accounts for. There is no mapping network and so no mean code:
truncation multiplies the latent, that is, draws it towards 0, the mode of its prior.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.pixels import draw_patches, patch_points, pixel_grid, read_patches
from shapegan_jax.geometry.rays import cast_rays, depth_to_distance
from shapegan_jax.methods import siren_parts as parts
from shapegan_jax.methods.adversarial import Fakes
from shapegan_jax.methods.base import section
from shapegan_jax.methods.gan_settings import GanStage, engine_parts
from shapegan_jax.methods.pigan import PiGan
from shapegan_jax.metrics.previews import labelled_grid
from shapegan_jax.networks.nerf import ConditionalNerf
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator
from shapegan_jax.networks.siren import SphereStart
from shapegan_jax.rendering.volume import Sampler
from shapegan_jax.rng import stream
from shapegan_jax.types import Array, Cameras, Codes, CriticOutput, FieldFn, FieldSamples, Key, Lights, PyTree, Rays


@dataclasses.dataclass(frozen=True)
class PatchConfig:
  """Patches of `size` x `size` places at scales U(s_min, 1) of the picture's side.

  s_min starts at `first_scale` and is min(first_scale, max(min_scale, exp(-3 anneal floor(step / interval)))).
  """

  size: int = 32
  min_scale: float = 0.25
  anneal: float = 0.0025
  interval: int = 1000
  first_scale: float = 0.9

  def min_scale_at(self, step: int) -> float:
    """s_min at a step."""
    return min(self.first_scale, max(self.min_scale, math.exp(-3 * self.anneal * (step // self.interval))))


@dataclasses.dataclass(frozen=True)
class PatchCameraConfig(parts.CameraConfig):
  """A camera that may vary its distance, U(radius, radius_max), 0: it does not.

  `near` and `far` are given for the largest distance and follow the camera. With `planar_range` they are depths along
  the optical axis, as the authors', otherwise distances along each ray. `align` says where pixels lie
  (`geometry.pixels.Align`).
  """

  radius_max: float = 0.0
  planar_range: bool = False
  align: str = "corners"

  def sample(self, key: Key | None, n: int) -> Cameras:
    if key is None:
      return super().sample(None, n)
    yaw, pitch = self.pose_prior().sample(key, (n,))
    low, high = self.radius, max(self.radius, self.radius_max)
    radius = jax.random.uniform(stream(key, "radius"), (n,), minval=low, maxval=high)
    return orbit_cameras(yaw, pitch, fov=jnp.deg2rad(self.fov_deg), radius=radius)

  def picture_rays(self, cameras: Cameras, resolution: int) -> Rays:
    pixels = pixel_grid(resolution, resolution, align=self.align).reshape(-1, 2)
    return self.cast(cameras, jnp.broadcast_to(pixels, (*cameras.fov.shape, *pixels.shape)))

  def cast(self, cameras: Cameras, points: Float[Array, "b n 2"]) -> Rays:
    """Rays [b, n] through each camera's own image points."""

    def cast_one(camera: Cameras, points: Array) -> Rays:
      shift = camera.radius - max(self.radius, self.radius_max)
      rays = cast_rays(camera, points, near=self.near + shift, far=self.far + shift)
      if not self.planar_range:
        return rays
      near, far = (depth_to_distance(depth, camera, rays.viewdirs) for depth in (rays.near, rays.far))
      return dataclasses.replace(rays, near=near, far=far)

    return jax.vmap(cast_one)(cameras, points)


@dataclasses.dataclass(frozen=True)
class NerfGenerator:
  """The field of a latent, whose first part is the shape code and whose last the appearance code."""

  field: ConditionalNerf

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> NerfGenerator:
    """From the section `field`; its `sphere_start` is {} or {radius, sharpness, gain} in warped coordinates."""
    settings = dict(config["field"])
    sphere = SphereStart(**settings["sphere_start"]) if settings.get("sphere_start") else None
    return cls(section(ConditionalNerf, {"field": {**settings, "sphere_start": sphere}}, "field"))

  @property
  def latent_dim(self) -> int:
    """Length of a latent."""
    return self.field.shape_dim + self.field.appearance_dim

  def init(self, key: Key) -> PyTree:
    """Fresh parameters."""
    return {"field": self.field.init_params(key)["params"]}

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> tuple[Array, Array]:
    """(shape, appearance) codes of latents, multiplied by `truncation`."""
    del params
    if isinstance(latents, Codes):
      return tuple(truncation * code for code in latents.values)
    scaled = truncation * latents
    return scaled[..., : self.field.shape_dim], scaled[..., self.field.shape_dim :]

  def field_fn(self, params: PyTree, codes: tuple[Array, Array], light: Lights | None = None) -> FieldFn:
    """One instance's field: a closure over its codes."""
    del light

    def field(points: Array, viewdirs: Array) -> FieldSamples:
      raw, color = self.field.apply({"params": params["field"]}, points, viewdirs, *codes)
      return FieldSamples(raw=raw, color=color)

    return field


@dataclasses.dataclass(frozen=True)
class Graf(PiGan):
  """The method; see the module's docstring. Priors, compositing and queries are pi-GAN's."""

  generator: NerfGenerator
  cameras: PatchCameraConfig
  patches: PatchConfig

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> Graf:
    """From a plain nested config (see `configs/graf.py`)."""
    patches, cameras = section(PatchConfig, config, "patches"), section(PatchCameraConfig, config, "cameras")
    if cameras.align not in ("corners", "centres", "left"):
      raise UserError(f"config.cameras.align: {cameras.align!r} is not one of corners, centres, left")
    critic = {"critic": {**config["critic"], "resolution": patches.size}}
    return cls(
      **engine_parts(config),
      critic=section(PatchDiscriminator, critic, "critic"),
      generator=NerfGenerator.from_config(config),
      cameras=cameras,
      rendering=section(parts.RenderConfig, config, "rendering"),
      patches=patches,
    )

  def plan(self, step: int) -> tuple[GanStage, dict[str, float]]:
    """Adds `patch_scale_min`."""
    stage, anneals = super().plan(step)
    return stage, anneals | {"patch_scale_min": self.patches.min_scale_at(step)}

  def real_images(self, image: Array, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Array:
    """A patch of each real picture, drawn as the generator's are."""
    del stage
    return read_patches(image, *self._draw_patches(key, image.shape[0], anneals))

  def criticise(
    self, disc_params: PyTree, disc_extra: PyTree, image: Array, anneals: Mapping[str, Array], stage: GanStage
  ) -> CriticOutput:
    del anneals, stage
    return self.critic.apply({"params": disc_params, **disc_extra}, image)

  def advance_critic(self, disc_params: PyTree, disc_extra: PyTree) -> PyTree:
    """One step of power iteration."""
    variables = {"params": disc_params, **disc_extra}
    return self.critic.apply(variables, method="advance", mutable=list(disc_extra))[1]

  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Fakes:
    """One patch of each of a batch of pictures of `stage.resolution`."""
    latents, cameras, _ = self.sample_inputs(key, stage.batch_size)
    lines = self._draw_patches(stream(key, "patches"), stage.batch_size, anneals)
    points = patch_points(*lines, stage.resolution, stage.resolution, align=self.cameras.align)
    rendering = self._render(
      gen_params,
      self.generator.codes(gen_params, latents),
      cameras,
      resolution=self.patches.size,
      sampler=self.sampler(stage.samples),
      compositor=self.compositor(),
      key=stream(key, "samples"),
      noise_std=anneals.get("density_noise"),
      rays=self.cameras.cast(cameras, points.reshape(stage.batch_size, -1, 2)),
    )
    return Fakes.of(rendering, latents, cameras)

  def sampler(self, samples: int) -> Sampler:
    return dataclasses.replace(super().sampler(samples), placement="stratified")

  def crossed_latents(self, latents: Float[Array, "n d"]) -> Float[Array, "n n d"]:
    """Row i, column j: the appearance of latent i on the shape of latent j."""
    n, first = latents.shape[0], self.generator.field.shape_dim
    shapes = jnp.repeat(latents[None, :, :first], n, 0)
    appearances = jnp.repeat(latents[:, None, first:], n, 1)
    return jnp.concatenate([shapes, appearances], -1)

  def _draw_patches(self, key: Key, n: int, anneals: Mapping[str, Array]) -> tuple[Array, Array]:
    return parallel.over_batch(draw_patches(key, n, self.patches.size, min_scale=anneals["patch_scale_min"]))


def disentanglement_grid(
  model: Any, *, count: int = 5, resolution: int | None = None, key: Key | None = None
) -> UInt8[np.ndarray, "height width 3"]:
  """A picture of what the two codes do: columns share a shape, rows an appearance, all from the prior's central pose.

  Args:
    model: a trained GRAF (`shapegan_jax.load`).
    count: latents, drawn with `key` (None: always the same); the diagonal shows them as they are.
    resolution: pixels a side of each picture; None: that of the last training stage.

  Raises:
    UserError: the model's method has no separate codes.
  """
  if not hasattr(model.method, "crossed_latents"):
    raise UserError("disentanglement_grid: this model has one code for shape and appearance; only GRAF separates them")
  crossed, cameras = model.method.crossed_latents(model.sample_latents(count, key)), model.central_cameras(count)
  rows = {f"look {i + 1}": model.render(crossed[i], cameras, resolution=resolution).rgb for i in range(count)}
  return labelled_grid({label: np.asarray(row, np.float64) for label, row in rows.items()})
