"""What the loop, checkpoints, evaluators and tools may ask of a method, and how a config becomes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp

from shapegan_jax.errors import UserError
from shapegan_jax.schedules import Stage, Stages
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rendering

T = TypeVar("T")


@runtime_checkable
class Method(Protocol):
  """A way to learn shapes. Everything is pure; the method owns its state, of which others read only `state.step`.

  A method whose pictures have no depth says so by `has_shape = False`; what needs depth is then left out.
  """

  stages: Stages

  def plan(self, step: int) -> tuple[Stage, dict[str, float]]:
    """The static stage of a step and the numbers annealed over steps."""

  def init(self, key: Key, *, dependencies: Mapping[str, Any] | None = None) -> PyTree:
    """A fresh state. `dependencies` are pretrained models by name, for methods that stand on one."""

  def update(
    self, state: PyTree, batch: dict[str, Array], key: Key, anneals: dict[str, Array], *, stage: Stage
  ) -> tuple[PyTree, dict[str, Array]]:
    """One training step. `batch["image"]` is [b, h, w, 3] in [-1, 1]; `key` is the run's, folded with `state.step`."""

  def params_of(self, state: PyTree, *, ema: bool = True) -> PyTree:
    """The generator's parameters: the average that is evaluated, with all that is exported, or the raw ones."""

  def sample_latents(self, key: Key, n: int) -> Array:
    """[n, latent] from the prior."""

  def sample_cameras(self, key: Key | None, n: int) -> Cameras:
    """[n] cameras from the pose prior; `key=None`: at its centre."""

  def cameras_at(self, yaw: Array, pitch: Array) -> Cameras:
    """[n] cameras of the training's field of view and distance at these angles [n] (radians)."""

  def sample_lights(self, key: Key | None, n: int) -> Lights | None:
    """[n] lights from the light prior (`key=None`: its mean); None for methods without light."""

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> Codes:
    """The modulations of latents. Codes may stand wherever latents may."""

  def render(
    self,
    params: PyTree,
    latents: Array | Codes,
    cameras: Cameras,
    lights: Lights | None = None,
    *,
    resolution: int,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    """Pictures [n, resolution, resolution, ...]; `key=None` is deterministic."""

  def query(
    self,
    params: PyTree,
    latents: Array | Codes,
    points: Array,
    lights: Lights | None = None,
    viewdirs: Array | None = None,
  ) -> FieldSamples:
    """The field of each latent at world points [n, p, 3] seen along `viewdirs` [n, p, 3], with `gradient`.

    Without `viewdirs` colour is seen from the front. A method whose field has a surface also offers `render_surface`
    (see `methods.gof`).
    """


def build(config: Mapping[str, Any]) -> Method:
  """The method of a plain nested config (`ConfigDict.to_dict()`). Unknown methods and keys are errors."""
  # Imported on demand so that listing the methods costs nothing.
  name = config["method"]
  if name == "graf":
    from shapegan_jax.methods.graf import Graf

    return Graf.from_config(config)
  if name == "gof":
    from shapegan_jax.methods.gof import Gof

    return Gof.from_config(config)
  if name == "pigan":
    from shapegan_jax.methods.pigan import PiGan

    return PiGan.from_config(config)
  if name == "shadegan":
    from shapegan_jax.methods.shadegan import ShadeGan

    return ShadeGan.from_config(config)
  if name == "stylegan2":
    from shapegan_jax.methods.stylegan2 import StyleGan2

    return StyleGan2.from_config(config)
  if name == "gan2shape":
    from shapegan_jax.methods.gan2shape import Gan2Shape

    return Gan2Shape.from_config(config)
  names = "graf, pigan, gof, shadegan, stylegan2, gan2shape"
  raise UserError(f"config.method: no method is called {name!r}; the methods are {names}")


def has_shape(method: Method) -> bool:
  """Whether the method's pictures have depth."""
  return getattr(method, "has_shape", True)


def resolve(config: dict[str, Any], source: Any) -> dict[str, Any]:
  """The config with what must be read off the data set filled in as numbers, so that the saved config is complete.

  Today that is one thing: `lights.prior = "fitted"` becomes the mean and covariance of the set's own lights.
  """
  if config.get("lights", {}).get("prior") != "fitted":
    return config
  from shapegan_jax.rendering.shading import fit_gaussian_lights

  codes = source.lights() if hasattr(source, "lights") else None
  if codes is None:
    raise UserError(
      "config.lights.prior: 'fitted' needs a data set that carries lights and this one has none; "
      "use --config.lights.prior=gaussian with lights.mean and lights.covariance"
    )
  fitted = fit_gaussian_lights(codes)
  lights = dict(config["lights"])
  lights.update(
    prior="gaussian",
    mean=tuple(float(m) for m in fitted.mean),
    covariance=tuple(tuple(float(c) for c in row) for row in fitted.cov),
  )
  return {**config, "lights": lights}


def frontal_viewdirs(points: Array) -> Array:
  """The directions [n, p, 3] in which a camera in front of the object sees world points."""
  return jnp.broadcast_to(jnp.array([0.0, 0.0, -1.0], points.dtype), points.shape)


def section(cls: type[T], config: Mapping[str, Any], name: str) -> T:
  """Dataclass `cls` from the config section `name`; a key it does not know is the user's error."""
  values = dict(config.get(name) or {})
  known = {field.name for field in dataclasses.fields(cls)}
  unknown = sorted(set(values) - known)
  if unknown:
    raise UserError(f"config.{name}.{unknown[0]}: no such setting; config.{name} has {', '.join(sorted(known))}")
  return cls(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
  """Lists, as JSON has them, as tuples."""
  return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
