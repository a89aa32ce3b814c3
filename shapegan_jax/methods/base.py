"""What the loop, checkpoints, evaluators and tools may ask of a method: two protocols, pictures and fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from shapegan_jax.rendering.opacities import Opacity, OpacityFn
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stage, Stages
from shapegan_jax.types import Array, Cameras, Codes, FieldFn, FieldSamples, Key, Lights, PyTree, Rays, Rendering, Scene


@runtime_checkable
class Method(Protocol):
  """A way to learn shapes. Everything is pure; the method owns its state, of which others read only `state.step`.

  A class that configs name (`methods.catalog`) also has `sections(config)`, the dataclass of each section that it
  reads, `read(config)`, those dataclasses, and `from_config(config)`.

  Attributes:
    stages: (first step, stage), ascending.
    has_shape: whether its pictures have depth; what needs depth is left out otherwise.
    has_surface: whether its field has a surface that can be rendered alone (`render_surface`, see `methods.gof`).
    uses_data: whether its updates read pictures of a data set.
  """

  has_shape: bool
  has_surface: bool
  uses_data: bool
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
    scene: Scene,
    *,
    resolution: int,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    """Pictures [n, resolution, resolution, ...] of a scene of n; `key=None` is deterministic."""

  def query(
    self,
    params: PyTree,
    latents: Array | Codes,
    points: Array,
    lights: Lights | None = None,
    viewdirs: Array | None = None,
  ) -> FieldSamples:
    """The field of each latent at world points [n, p, 3] seen along `viewdirs` [n, p, 3], with `gradient`.

    Without `viewdirs` colour is seen from the front.
    """


@runtime_checkable
class FieldMethod(Method, Protocol):
  """A method whose shapes are fields: what meshes, measures and the viewer evaluate along rays and at points.

  Attributes:
    opacity: the rule from raw values to alphas; `opacity_of` binds its parameters.
    background: grey level in [0, 1] behind what a ray did not absorb.
    half_extent: half the side of the cube around the origin that holds all that a camera of the prior sees.
    surface_margin: how far before its surface an occupancy field may be ignored (world units); None for densities.
    align: where the pixels of a picture lie (`geometry.pixels.Align`).
    zooms: whether pictures may have another field of view than training's.
    light_conditioned: whether colour itself depends on the light, beside the shading.
    eval_samples: samples per ray and pass at inference.
  """

  opacity: Opacity

  @property
  def background(self) -> float: ...

  @property
  def half_extent(self) -> float: ...

  @property
  def surface_margin(self) -> float | None: ...

  @property
  def align(self) -> str: ...

  @property
  def zooms(self) -> bool: ...

  @property
  def light_conditioned(self) -> bool: ...

  @property
  def eval_samples(self) -> int: ...

  def rays(self, cameras: Cameras, resolution: int) -> Rays:
    """Every pixel's ray, [n, resolution^2], rows from the top."""

  def field_fn(self, params: PyTree, codes: tuple[Array, ...], light: Lights | None) -> FieldFn:
    """The field of one instance: `codes` and `light` without the leading axis."""

  def opacity_of(self, params: PyTree) -> OpacityFn:
    """The opacity with the parameters that were learned."""

  def with_eval_samples(self, samples: int) -> FieldMethod:
    """The same method with that many samples per ray and pass at inference."""


def sample_scene(method: Method, key: Key, n: int) -> Scene:
  """[n] independent latents, cameras and lights from the priors."""
  return Scene(
    method.sample_latents(stream(key, "latents"), n),
    method.sample_cameras(stream(key, "cameras"), n),
    method.sample_lights(stream(key, "lights"), n),
  )


def frontal_viewdirs(points: Array) -> Array:
  """The directions [n, p, 3] in which a camera in front of the object sees world points."""
  return jnp.broadcast_to(jnp.array([0.0, 0.0, -1.0], points.dtype), points.shape)
