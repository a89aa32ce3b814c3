"""What stands between a latent and a field: the generators, and the discriminators of the volume methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from shapegan_jax.errors import UserError
from shapegan_jax.networks.discriminators import ProgressiveDiscriminator, StridedDiscriminator
from shapegan_jax.networks.mapping import MappingNetwork
from shapegan_jax.networks.nerf import ConditionalNerf
from shapegan_jax.networks.siren import FilmSiren, SphereStart
from shapegan_jax.sections import section
from shapegan_jax.types import Array, Codes, FieldFn, FieldSamples, Key, Lights, PyTree

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
class SirenGenerator:
  """Mapping network plus field. Parameters are {"mapping": ..., "field": ...}."""

  mapping: MappingNetwork
  field: FilmSiren

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> SirenGenerator:
    """From the sections `mapping` and `field`."""
    mapping = section(MappingConfig, config.get("mapping"), "mapping")
    settings = dataclasses.asdict(section(FieldConfig, config.get("field"), "field"))
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


def make_discriminator(config: Mapping[str, Any]) -> Any:
  """The discriminator of the section `discriminator`: `kind` progressive (pi-GAN, GOF, ShadeGAN) or strided
  (Cats)."""
  settings = dict(config["discriminator"])
  kind = settings.pop("kind")
  modules = {"progressive": ProgressiveDiscriminator, "strided": StridedDiscriminator}
  if kind not in modules:
    raise UserError(f"config.discriminator.kind: {kind!r} is not one of {', '.join(modules)}")
  try:
    return modules[kind](**settings)
  except TypeError as error:
    raise UserError(f"config.discriminator: {error}") from None


@dataclasses.dataclass(frozen=True)
class NerfGenerator:
  """The field of a latent, whose first part is the shape code and whose last the appearance code."""

  field: ConditionalNerf

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> NerfGenerator:
    """From the section `field`; its `sphere_start` is {} or {radius, sharpness, gain} in warped coordinates."""
    settings = dict(config["field"])
    sphere = SphereStart(**settings["sphere_start"]) if settings.get("sphere_start") else None
    return cls(section(ConditionalNerf, {**settings, "sphere_start": sphere}, "field"))

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
