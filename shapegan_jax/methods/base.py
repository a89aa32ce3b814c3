"""What the loop, checkpoints, evaluators and tools may ask of a method, and how a config becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp

from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stage, Stages
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rendering, Scene

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

    Without `viewdirs` colour is seen from the front. A method whose field has a surface also offers `render_surface`
    (see `methods.volume_gan.gof`).
    """


def has_shape(method: Method) -> bool:
  """Whether the method's pictures have depth."""
  return getattr(method, "has_shape", True)


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
