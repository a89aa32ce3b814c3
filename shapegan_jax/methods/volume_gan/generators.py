"""What stands between a latent and a field: the generators of the volume methods, chosen by `field.kind`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from shapegan_jax.networks.mapping import MappingNetwork
from shapegan_jax.networks.nerf import ConditionalNerf
from shapegan_jax.networks.siren import FilmSiren
from shapegan_jax.rng import stream
from shapegan_jax.sections import Count, Natural, Schema
from shapegan_jax.types import Array, Codes, FieldFn, FieldSamples, Key, Lights, PyTree

_MEAN_CODE_LATENTS = 10_000  # pi-GAN averages the codes of this many latents for truncation


@runtime_checkable
class Generator(Protocol):
  """Latents -> codes -> fields. A new field is a class like this one and its row in `GENERATORS`.

  Attributes:
    latent_dim: numbers in a latent.
    code_shapes: the shape of each code of one instance.
    light_conditioned: whether the field's colour depends on the light.
  """

  @property
  def latent_dim(self) -> int: ...

  @property
  def code_shapes(self) -> tuple[tuple[int, ...], ...]: ...

  @property
  def light_conditioned(self) -> bool: ...

  @classmethod
  def sections(cls) -> Schema:
    """The sections of the config that it is made from."""

  @classmethod
  def from_sections(cls, read: Mapping[str, Any]) -> Generator:
    """From those sections, as their dataclasses."""

  def init(self, key: Key) -> PyTree:
    """Fresh parameters, a dictionary."""

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> tuple[Array, ...]:
    """[n, *shape] for each of `code_shapes`; `truncation` 1 keeps the whole prior, 0 gives the average instance."""

  def field_fn(self, params: PyTree, codes: tuple[Array, ...], light: Lights | None) -> FieldFn:
    """The field of one instance: a closure over its codes and light. It may do work that all its points share."""


@dataclasses.dataclass(frozen=True)
class MappingConfig:
  """Latent size, hidden width and hidden layers of the mapping network."""

  latent_dim: Count = 256
  hidden_dim: Count = 256
  n_hidden: Natural = 3


@dataclasses.dataclass(frozen=True)
class SirenGenerator:
  """pi-GAN's: a mapping network and a FiLM-SIREN. Parameters are {"mapping": ..., "field": ...}."""

  mapping: MappingNetwork
  field: FilmSiren

  @classmethod
  def sections(cls) -> Schema:
    return {"mapping": MappingConfig, "field": {"siren": FilmSiren}}

  @classmethod
  def from_sections(cls, read: Mapping[str, Any]) -> SirenGenerator:
    field: FilmSiren = read["field"]
    return cls(MappingNetwork(out=2 * field.code_size, **dataclasses.asdict(read["mapping"])), field)

  @property
  def latent_dim(self) -> int:
    return self.mapping.latent_dim

  @property
  def code_shapes(self) -> tuple[tuple[int, ...], ...]:
    """Of raw frequencies and raw phases, (depth + 1) * width numbers each."""
    return (self.field.code_size,), (self.field.code_size,)

  @property
  def light_conditioned(self) -> bool:
    return self.field.light_condition

  def init(self, key: Key) -> PyTree:
    return {
      "mapping": self.mapping.init_params(stream(key, "mapping"))["params"],
      "field": self.field.init_params(stream(key, "field"))["params"],
    }

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> tuple[Array, ...]:
    """Raw frequencies and phases, drawn towards their mean over latents by `truncation`.

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

  def field_fn(self, params: PyTree, codes: tuple[Array, ...], light: Lights | None) -> FieldFn:
    light_code = light.code if self.field.light_condition else None

    def field(points: Array, viewdirs: Array) -> FieldSamples:
      raw, color = self.field.apply({"params": params["field"]}, points, viewdirs, *codes, light_code)
      return FieldSamples(raw=raw, color=color)

    return field


@dataclasses.dataclass(frozen=True)
class NerfGenerator:
  """GRAF's: a NeRF of a latent whose first part is the shape code and whose last is the appearance code."""

  field: ConditionalNerf

  @classmethod
  def sections(cls) -> Schema:
    return {"field": {"nerf": ConditionalNerf}}

  @classmethod
  def from_sections(cls, read: Mapping[str, Any]) -> NerfGenerator:
    return cls(read["field"])

  @property
  def latent_dim(self) -> int:
    return self.field.shape_dim + self.field.appearance_dim

  @property
  def code_shapes(self) -> tuple[tuple[int, ...], ...]:
    return (self.field.shape_dim,), (self.field.appearance_dim,)

  @property
  def light_conditioned(self) -> bool:
    return False

  def init(self, key: Key) -> PyTree:
    return {"field": self.field.init_params(key)["params"]}

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> tuple[Array, ...]:
    """(shape, appearance) codes of latents, multiplied by `truncation`: 0 is the mode of their prior."""
    del params
    if isinstance(latents, Codes):
      return tuple(truncation * code for code in latents.values)
    scaled = truncation * latents
    return scaled[..., : self.field.shape_dim], scaled[..., self.field.shape_dim :]

  def field_fn(self, params: PyTree, codes: tuple[Array, ...], light: Lights | None = None) -> FieldFn:
    del light

    def field(points: Array, viewdirs: Array) -> FieldSamples:
      raw, color = self.field.apply({"params": params["field"]}, points, viewdirs, *codes)
      return FieldSamples(raw=raw, color=color)

    return field


GENERATORS: dict[str, type[Generator]] = {"siren": SirenGenerator, "nerf": NerfGenerator}
"""`field.kind` -> generator. Add a class of your own before its config is read."""
