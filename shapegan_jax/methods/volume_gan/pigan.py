"""pi-GAN: periodic implicit generative adversarial networks (Chan et al., CVPR 2021, arXiv 2012.00926).

A mapping network turns a latent into frequencies and phases that modulate a SIREN, a neural radiance field rendered
from a random pose; a discriminator that grows with the resolution judges the picture. No poses of the real pictures
are known: only their distribution. Sections 3.1-3.4 of the paper; the identity (pose) penalty and top-k training are
the authors' code's. Departures: pose targets are our centred (pitch, yaw), which differ from the authors' polar
angles by a bias and a sign that the last layer absorbs; the reduced learning rate of the mapping network, named in
the authors' code, never takes effect there and is left out. Ours, where `smoothness` has weight: GOF's smoothness of
normals (`objectives.shape.normal_smoothness`) where some rays end; a view of 64 pixels does not tell waves half a pixel
deep from paint, and a SIREN is made of waves. The authors' code carries no licence: this is written from the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from shapegan_jax import parallel
from shapegan_jax.methods.base import frontal_viewdirs, sample_scene
from shapegan_jax.methods.volume_gan import renderer as parts
from shapegan_jax.methods.volume_gan.cameras import CameraConfig
from shapegan_jax.methods.volume_gan.engine import AdversarialMethod, Fakes
from shapegan_jax.methods.volume_gan.generators import SirenGenerator, make_discriminator
from shapegan_jax.methods.volume_gan.renderer import RenderConfig
from shapegan_jax.methods.volume_gan.settings import GanStage, engine_parts
from shapegan_jax.numerics import l2_normalize
from shapegan_jax.objectives.shape import normal_smoothness
from shapegan_jax.rendering.samplers import HierarchicalSampler
from shapegan_jax.rendering.volume import Compositor, Density, Sampler, Window, points_at, with_gradient
from shapegan_jax.rng import stream
from shapegan_jax.schedules import ramp
from shapegan_jax.sections import section
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rays, Rendering, Scene, Shader


@dataclasses.dataclass(frozen=True)
class SmoothnessConfig:
  """`weight` of how far the normals at the expected ends of `rays` rays a picture are from those `neighbour` world
  units away."""

  weight: float = 0.0
  rays: int = 128
  neighbour: float = 1e-2


@dataclasses.dataclass(frozen=True)
class PiGan(AdversarialMethod):
  """The method; see the module's docstring."""

  generator: SirenGenerator
  cameras: CameraConfig
  rendering: RenderConfig
  smoothness: SmoothnessConfig = dataclasses.field(default=SmoothnessConfig(), kw_only=True)

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> PiGan:
    """From a plain nested config (see `configs/pigan.py`)."""
    return cls(**cls.common_parts(config), smoothness=section(SmoothnessConfig, config.get("smoothness"), "smoothness"))

  @staticmethod
  def common_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that pi-GAN and its descendants share."""
    return dict(
      **engine_parts(config),
      discriminator=make_discriminator(config),
      generator=SirenGenerator.from_config(config),
      cameras=section(CameraConfig, config.get("cameras"), "cameras"),
      rendering=section(RenderConfig, config.get("rendering"), "rendering"),
    )

  def init_generator(self, key: Key) -> PyTree:
    return self.generator.init(key)

  def plan(self, step: int) -> tuple[GanStage, dict[str, float]]:
    stage, anneals = super().plan(step)
    if self.rendering.density_noise_steps:
      anneals["density_noise"] = 1.0 - ramp(step, 0, self.rendering.density_noise_steps)
    return stage, anneals

  def sample_latents(self, key: Key, n: int) -> Array:
    return jax.random.normal(key, (n, self.generator.latent_dim))

  def sample_cameras(self, key: Key | None, n: int) -> Cameras:
    return self.cameras.sample(key, n)

  def cameras_at(self, yaw: Array, pitch: Array) -> Cameras:
    return self.cameras.at(yaw, pitch)

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> Codes:
    return Codes(tuple(self.generator.codes(params, latents, truncation=truncation)))

  def sample_lights(self, key: Key | None, n: int) -> Lights | None:
    del key, n
    return None

  def training_scene(self, key: Key, n: int) -> Scene:
    """The scene of a training batch, cut over the devices: each makes its share of the fakes."""
    return parallel.over_batch(sample_scene(self, key, n))

  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Fakes:
    scene = self.training_scene(key, stage.batch_size)
    codes = self.generator.codes(gen_params, scene.latents)
    rendering = self._render(
      gen_params,
      codes,
      scene.cameras,
      resolution=stage.resolution,
      sampler=self.sampler(stage.samples),
      compositor=self.compositor(),
      key=stream(key, "samples"),
      noise_std=anneals.get("density_noise"),
    )
    return Fakes.of(rendering, scene, self.normal_pairs(gen_params, key, codes, scene, rendering))

  def normal_pairs(
    self,
    gen_params: PyTree,
    key: Key,
    codes: tuple[Array, Array],
    scene: Scene,
    rendering: Rendering,
  ) -> dict[str, Array]:
    """{"pair" [b, rays, 2, 3], "found" [b, rays]}: unit normals where some rays of renderings [b, h, w] are expected to
    end and a step from there in a random direction, of rays that are mostly absorbed; {} without a weight.

    The places carry no gradient.
    """
    settings, (batch, size) = self.smoothness, rendering.distance.shape[:2]
    if not settings.weight:
      return {}
    chosen = jax.random.randint(stream(key, "smooth rays"), (batch, settings.rays), 0, size**2)
    distance, acc = jax.lax.stop_gradient([x.reshape(batch, -1) for x in (rendering.distance, rendering.acc)])
    maps = (self.cameras.picture_rays(scene.cameras, size), distance, acc)
    rays, distance, acc = jax.vmap(lambda rows, i: jax.tree.map(lambda x: x[i], rows))(maps, chosen)
    places = points_at(rays, distance[..., None])
    direction = jax.random.uniform(stream(key, "smooth steps"), places.shape, minval=-1.0)
    pair = jnp.concatenate([places, places + settings.neighbour * l2_normalize(direction)], -2)

    def gradient(codes: tuple[Array, Array], light: Lights | None, points: Array, viewdirs: Array) -> Array:
      return with_gradient(self.generator.field_fn(gen_params, codes, light))(points, viewdirs).gradient

    return {"pair": l2_normalize(-jax.vmap(gradient)(codes, scene.lights, pair, rays.viewdirs)), "found": acc > 0.5}

  def extra_losses(self, gen_params: PyTree, fakes: Fakes) -> dict[str, Array]:
    del gen_params
    if not self.smoothness.weight:
      return {}
    return {"smooth": self.smoothness.weight * normal_smoothness(fakes.aux["pair"], fakes.aux["found"])}

  def render(
    self,
    params: PyTree,
    scene: Scene,
    *,
    resolution: int,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    return self._render(
      params,
      self.generator.codes(params, scene.latents, truncation=truncation),
      scene.cameras,
      resolution=resolution,
      sampler=self.sampler(self.eval_samples),
      compositor=self.compositor(last_back=self.rendering.eval_last_back),
      key=key,
      gradient=True,
    )

  def query(
    self,
    params: PyTree,
    latents: Array | Codes,
    points: Array,
    lights: Lights | None = None,
    viewdirs: Array | None = None,
  ) -> FieldSamples:
    viewdirs = frontal_viewdirs(points) if viewdirs is None else viewdirs

    def query_one(codes: tuple[Array, Array], light: Lights | None, points: Array, viewdirs: Array) -> FieldSamples:
      samples = with_gradient(self.generator.field_fn(params, codes, light))(points[:, None], viewdirs)
      return jax.tree.map(lambda leaf: leaf[:, 0], samples)

    return jax.vmap(query_one)(self.generator.codes(params, latents), lights, points, viewdirs)

  @property
  def eval_samples(self) -> int:
    """Samples per ray and pass at inference."""
    return self.rendering.eval_samples or self.stages[-1][1].samples

  def sampler(self, samples: int) -> Sampler:
    """Where the field is evaluated: `samples` points per ray and pass."""
    settings = self.rendering
    fine = samples if settings.fine else 0
    return HierarchicalSampler(samples, fine, Density(settings.clamp), last=settings.last)

  def compositor(self, *, shader: Shader | None = None, last_back: bool | None = None) -> Compositor:
    """How densities become pictures."""
    settings = self.rendering
    return Compositor(
      opacity=Density(settings.clamp),
      shader=shader,
      background=settings.background,
      last_back=settings.last_back if last_back is None else last_back,
      normalise_distance=settings.normalise_distance,
    )

  def _render(
    self,
    params: PyTree,
    codes: tuple[Array, Array],
    cameras: Cameras,
    lights: Lights | None = None,
    *,
    resolution: int,
    sampler: Sampler,
    compositor: Compositor,
    key: Key | None,
    noise_std: Array | None = None,
    window: Window | None = None,
    gradient: bool = False,
    rays: Rays | None = None,
  ) -> Rendering:
    """The field of each code from each camera, along its own rays [b, resolution^2] (None: a full picture's)."""
    batch = codes[0].shape[0]
    return parts.render_instances(
      self.generator.field_fn,
      params,
      codes,
      cameras,
      self.cameras.picture_rays(cameras, resolution) if rays is None else rays,
      lights,
      sampler,
      compositor,
      resolution=resolution,
      draws=parallel.over_batch(sampler.draw(key, (batch, resolution**2), noise_std=noise_std)),
      window=window,
      gradient=gradient,
      points=self.rendering.chunk_points or parts.device_chunk_points(),
    )
