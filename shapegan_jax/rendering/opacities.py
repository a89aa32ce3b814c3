"""Opacities: how raw field values become alphas, the door through which every field enters the one compositor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.rendering.compositing import density_to_alphas
from shapegan_jax.types import PyTree

OpacityFn = Callable[[Array, Array], Array]
"""(raw [*r, s], deltas [*r, s]) -> alphas [*r, s] in [0, 1]."""


@runtime_checkable
class Opacity(Protocol):
  """A rule from raw values to alphas, which may have parameters of its own (a tightness that is learned).

  Attributes:
    surface_raw: the raw value on the surface of the field, or None where the rule has no such value (a density).
    unit: of raw values, for people.
  """

  surface_raw: float | None
  unit: str

  def init(self) -> PyTree:
    """Fresh parameters; {} if the rule has none."""

  def bind(self, params: PyTree) -> OpacityFn:
    """The rule with these parameters."""

  def level_values(self, raw: Array) -> Array:
    """A smooth quantity whose level sets are surfaces, for meshes: mostly raw itself."""


@dataclasses.dataclass(frozen=True)
class _Fixed:
  """A rule without parameters, which is its own function."""

  def init(self) -> PyTree:
    return {}

  def bind(self, params: PyTree) -> OpacityFn:
    del params
    return self

  def level_values(self, raw: Array) -> Array:
    return raw


@dataclasses.dataclass(frozen=True)
class Density(_Fixed):
  """raw -> density by `clamp` ("relu" as pi-GAN, or "softplus"), then alpha = 1 - exp(-density * delta)."""

  clamp: Literal["relu", "softplus"] = "relu"
  surface_raw = None
  unit = "density per world unit"

  def level_values(self, raw: Array) -> Array:
    """A density without its clamp at 0, which would bend the surface; softplus bends nothing."""
    return jax.nn.softplus(raw) if self.clamp == "softplus" else raw

  def __call__(self, raw: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
    activation = {"relu": jax.nn.relu, "softplus": jax.nn.softplus}[self.clamp]
    return density_to_alphas(activation(raw), deltas)


@dataclasses.dataclass(frozen=True)
class Occupancy(_Fixed):
  """GOF: alpha = sigmoid(logit), whatever the spacing of the samples."""

  surface_raw = 0.0
  unit = "occupancy logit"

  def __call__(self, raw: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
    del deltas
    return jax.nn.sigmoid(raw)


@dataclasses.dataclass(frozen=True)
class Solid(_Fixed):
  """Surface rendering: a sample hides all behind it, unless its interval is empty."""

  surface_raw = None
  unit = "raw value"

  def __call__(self, raw: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
    return jnp.broadcast_to(deltas > 0, raw.shape).astype(raw.dtype)


@dataclasses.dataclass(frozen=True)
class LogisticDensity(_Fixed):
  """density = sigmoid(raw / a) / a with a learned a > 0, which begins at `start`; then as `Density`.

  The smaller a, the thinner the wall: raw is read as a signed distance, positive inside, in units of its own
  (StyleSDF, Or-El et al. 2022, equation 4). a is kept as its logarithm.
  """

  start: float = 0.1
  surface_raw = 0.0
  unit = "signed distance, in the field's own unit"

  def init(self) -> PyTree:
    return {"log_tightness": jnp.log(jnp.float32(self.start))}

  def bind(self, params: PyTree) -> OpacityFn:
    a = jnp.exp(params["log_tightness"])
    return lambda raw, deltas: density_to_alphas(jax.nn.sigmoid(raw / a) / a, deltas)
