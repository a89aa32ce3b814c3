"""What the volume methods share: priors, codes, queries and the parts of a renderer. Abstract: a method is a subclass
that says how it makes a batch and a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from shapegan_jax import parallel
from shapegan_jax.methods.base import frontal_viewdirs, sample_scene
from shapegan_jax.methods.volume_gan.cameras import CameraConfig
from shapegan_jax.methods.volume_gan.discriminators import DISCRIMINATORS, check_heads, check_sizes
from shapegan_jax.methods.volume_gan.engine import AdversarialMethod
from shapegan_jax.methods.volume_gan.generators import GENERATORS, Generator
from shapegan_jax.methods.volume_gan.renderer import RenderConfig, Renderer
from shapegan_jax.methods.volume_gan.settings import ENGINE_SECTIONS, GanStage, engine_parts
from shapegan_jax.rendering.opacities import Opacity, OpacityFn
from shapegan_jax.rendering.samplers import HierarchicalSampler
from shapegan_jax.rendering.volume import Compositor, Sampler, with_gradient
from shapegan_jax.schedules import ramp
from shapegan_jax.sections import RUN_SETTINGS, Schema, kind_of, read_sections
from shapegan_jax.types import Array, Cameras, Codes, FieldFn, FieldSamples, Key, Lights, PyTree, Rays, Scene, Shader


@dataclasses.dataclass(frozen=True)
class VolumeGan(AdversarialMethod):
  """A field of each latent, rendered along rays from a random pose, against a discriminator.

  Generator parameters are those of `generator.init`, and {"opacity": ...} where the opacity has any.
  """

  has_shape = True
  has_surface = False
  surface_margin = None
  zooms = True

  generator: Generator
  cameras: CameraConfig
  rendering: RenderConfig
  opacity: Opacity

  FIELD: ClassVar[str] = "siren"
  """The kind of field where the config names none."""
  DISCRIMINATOR: ClassVar[type | Mapping[str, type]] = DISCRIMINATORS
  CAMERAS: ClassVar[type] = CameraConfig

  @classmethod
  def sections(cls, config: Mapping[str, Any]) -> Schema:
    """The dataclass of each section that the method reads."""
    generator = GENERATORS[kind_of(config, "field", GENERATORS, cls.FIELD)]
    shared = {"discriminator": cls.DISCRIMINATOR, "cameras": cls.CAMERAS, "rendering": RenderConfig}
    return {**ENGINE_SECTIONS, **generator.sections(), **shared, **cls.own_sections()}

  @classmethod
  def own_sections(cls) -> Schema:
    """The sections that this method alone reads."""
    return {}

  @classmethod
  def read(cls, config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections as their dataclasses, and the `generator` made of them; nothing is built that costs anything.

    Raises:
      UserError: a setting that the method does not have, a value that may not stand there, or two that contradict.
    """
    read = read_sections(config, cls.sections(config), others=RUN_SETTINGS)
    read["generator"] = GENERATORS[kind_of(config, "field", GENERATORS, cls.FIELD)].from_sections(read)
    cls.check(read)
    return read

  @classmethod
  def check(cls, read: Mapping[str, Any]) -> None:
    """Raise a UserError where two settings contradict each other."""
    check_heads(read["discriminator"], read["objectives"], read["generator"].latent_dim)
    check_sizes(read["discriminator"], read["stages"])

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> VolumeGan:
    """From a plain nested config (see `configs/`). Raises what `read` raises."""
    return cls(**cls.parts(cls.read(config)))

  @classmethod
  def parts(cls, read: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the method, from what was `read`."""
    return dict(
      **engine_parts(read),
      discriminator=read["discriminator"],
      generator=read["generator"],
      cameras=read["cameras"],
      rendering=read["rendering"],
      opacity=read["rendering"].make_opacity(),
    )

  def init_generator(self, key: Key) -> PyTree:
    opacity = self.opacity.init()
    return self.generator.init(key) | ({"opacity": opacity} if opacity else {})

  def plan(self, step: int) -> tuple[GanStage, dict[str, float]]:
    """Adds `density_noise`, the standard deviation of the noise on densities."""
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

  def sample_lights(self, key: Key | None, n: int) -> Lights | None:
    del key, n
    return None

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> Codes:
    return Codes(tuple(self.generator.codes(params, latents, truncation=truncation)))

  def training_scene(self, key: Key, n: int) -> Scene:
    """The scene of a training batch, cut over the devices: each makes its share of the fakes."""
    return parallel.over_batch(sample_scene(self, key, n))

  def query(
    self,
    params: PyTree,
    latents: Array | Codes,
    points: Array,
    lights: Lights | None = None,
    viewdirs: Array | None = None,
  ) -> FieldSamples:
    viewdirs = frontal_viewdirs(points) if viewdirs is None else viewdirs

    def query_one(codes: tuple[Array, ...], light: Lights | None, points: Array, viewdirs: Array) -> FieldSamples:
      samples = with_gradient(self.field_fn(params, codes, light))(points[:, None], viewdirs)
      return jax.tree.map(lambda leaf: leaf[:, 0], samples)

    return jax.vmap(query_one)(self.generator.codes(params, latents), lights, points, viewdirs)

  @property
  def background(self) -> float:
    return self.rendering.background

  @property
  def half_extent(self) -> float:
    """Rays end at near and far, so the object lies within max(radius - near, far - radius) of the origin, for the
    largest radius where cameras vary it."""
    radius = self.cameras.largest_radius
    return max(radius - self.cameras.near, self.cameras.far - radius)

  @property
  def align(self) -> str:
    return self.cameras.align

  @property
  def light_conditioned(self) -> bool:
    return self.generator.light_conditioned

  @property
  def eval_samples(self) -> int:
    return self.rendering.eval_samples or self.stages[-1][1].samples

  def with_eval_samples(self, samples: int) -> VolumeGan:
    return dataclasses.replace(self, rendering=dataclasses.replace(self.rendering, eval_samples=samples))

  def rays(self, cameras: Cameras, resolution: int) -> Rays:
    return self.cameras.picture_rays(cameras, resolution)

  def field_fn(self, params: PyTree, codes: tuple[Array, ...], light: Lights | None) -> FieldFn:
    return self.generator.field_fn(params, codes, light)

  def opacity_of(self, params: PyTree) -> OpacityFn:
    return self.opacity.bind(params.get("opacity", {}))

  def sampler(self, samples: int) -> Sampler:
    """Where the field is evaluated: `samples` points per ray and pass."""
    return HierarchicalSampler(samples, samples if self.rendering.fine else 0, last=self.rendering.last)

  def compositor(self, *, shader: Shader | None = None, evaluation: bool = False) -> Compositor:
    """How samples become pictures, in training or at inference."""
    settings = self.rendering
    return Compositor(
      shader=shader,
      background=settings.background,
      last_back=settings.eval_last_back if evaluation else settings.last_back,
      normalise_distance=settings.normalise_distance,
    )

  def renderer(
    self, sampler: Sampler, compositor: Compositor, *, gradient: bool = False, opacity: Opacity | None = None
  ) -> Renderer:
    """A renderer of this method's fields."""
    opacity = self.opacity if opacity is None else opacity
    return Renderer(self.field_fn, opacity, sampler, compositor, gradient, self.rendering.chunk_points)
