"""A batch of instances, each rendered along its own rays: sampler, opacity and compositor, chunks and devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from shapegan_jax import parallel
from shapegan_jax.geometry.rays import distance_to_depth
from shapegan_jax.rendering.opacities import Density, LogisticDensity, Opacity
from shapegan_jax.rendering.volume import Compositor, Sampler, SamplingNoise, Window, render_rays, with_gradient
from shapegan_jax.sections import Natural, Weight
from shapegan_jax.types import Array, Cameras, FieldFn, Key, Lights, PyTree, Rays, Rendering

ACCELERATOR_POINTS = 1 << 18
"""The points in flight that `device_chunk_points` chooses on an accelerator."""

FieldOf = Callable[[PyTree, tuple[Array, ...], Lights | None], FieldFn]
"""(parameters, codes and light of one instance) -> its field."""


@dataclasses.dataclass(frozen=True)
class RenderConfig:
  """How rays are sampled and composited.

  `opacity` says how raw values become densities: "density" clamps them by `clamp`, "logistic" has a learned tightness
  (`rendering.opacities`). `fine` adds as many importance samples as there are coarse ones. `last` is the rule of the
  last interval ("far" or pi-GAN's "published" 1e10); `density_noise_steps` the step at which the density noise has
  faded (0: never any). `eval_samples` per pass replaces the stage's count at inference (0: the last stage's).
  `chunk_points` is the number of points in flight (0: chosen for the device).
  """

  opacity: Literal["density", "logistic"] = "density"
  clamp: Literal["relu", "softplus"] = "relu"
  fine: bool = True
  last: Literal["far", "published"] = "far"
  last_back: bool = False
  eval_last_back: bool = False
  background: Weight = 0.0
  normalise_distance: bool = True
  density_noise_steps: Natural = 5000
  eval_samples: Natural = 0
  chunk_points: Natural = 0

  def make_opacity(self) -> Opacity:
    """The opacity of a density field."""
    return LogisticDensity() if self.opacity == "logistic" else Density(self.clamp)


def device_chunk_points() -> int:
  """Points in flight: what a CPU's cache holds, or enough to keep an accelerator busy within its memory."""
  return 4096 if jax.default_backend() == "cpu" else ACCELERATOR_POINTS


def chunk_rays(n_rays: int, points_per_ray: int, batch: int, points: int) -> int:
  """Rays per chunk and instance for about `points` points in flight: a divisor of `n_rays` if there is one.

  `n_rays` rays of each of `batch` instances are rendered on a device.
  """
  wanted = max(1, points // max(1, points_per_ray * batch))
  if wanted >= n_rays:
    return n_rays
  divisors = [d for d in range(max(1, wanted // 2), wanted + 1) if n_rays % d == 0]
  return divisors[-1] if divisors else wanted


@dataclasses.dataclass(frozen=True)
class Renderer:
  """Instance i, under light i, along its own rays from camera i: a `vmap` of the one ray pipeline.

  Instances and rays are shared by the devices (`parallel.share_rays`), each of which has about `chunk_points` points in
  flight (0: chosen for the device).

  Attributes:
    field_of: makes an instance's field from the parameters, its codes and its light.
    opacity: its own parameters, if it has any, are `params["opacity"]`.
    gradient: whether samples carry the field's gradient, for normals and shading.
  """

  field_of: FieldOf
  opacity: Opacity
  sampler: Sampler
  compositor: Compositor
  gradient: bool = False
  chunk_points: int = 0

  def __call__(
    self,
    params: PyTree,
    codes: tuple[Array, ...],
    cameras: Cameras,
    rays: Rays,
    lights: Lights | None = None,
    *,
    key: Key | None = None,
    noise_std: Array | None = None,
    window: Window | None = None,
  ) -> Rendering:
    """Pictures [b, s, s, ...] of `rays` [b, s^2], a square picture or patch of each instance.

    Args:
      codes: [b, ...] each, as `lights` and `cameras`.
      key: draws all that is random, before anything is cut; None: nothing is.
      noise_std: standard deviation of the noise on raw values; None: no noise.
      window: where to sample; its `centre` is [b, s^2], its `width` a scalar.
    """
    batch, n_rays = rays.near.shape
    noise = parallel.over_batch(self.sampler.draw(key, (batch, n_rays), noise_std=noise_std))
    width = None if window is None else jnp.broadcast_to(window.width, (batch,))  # an axis to map over
    centre = None if window is None else window.centre
    flat = parallel.share_rays(self._render_share, params, (codes, lights, width), (rays, noise, centre))
    flat = dataclasses.replace(flat, depth=distance_to_depth(flat.distance, cameras, rays.viewdirs))
    side = math.isqrt(n_rays)
    return jax.tree.map(lambda leaf: leaf.reshape(batch, side, side, *leaf.shape[2:]), flat)

  def _render_share(self, params: PyTree, instances: PyTree, of_rays: PyTree) -> Rendering:
    """What one device does: some instances, some of their rays."""
    b, n = of_rays[0].near.shape
    chunk = chunk_rays(n, self.sampler.points_per_ray, b, self.chunk_points or device_chunk_points())
    return jax.vmap(partial(self._render_one, chunk=chunk), in_axes=(None, 0, 0))(params, instances, of_rays)

  def _render_one(
    self,
    params: PyTree,
    of_instance: tuple[tuple[Array, ...], Lights | None, Array | None],
    of_rays: tuple[Rays, SamplingNoise, Array | None],
    chunk: int,
  ) -> Rendering:
    (codes, light, width), (rays, noise, centre) = of_instance, of_rays
    field = self.field_of(params, codes, light)
    return render_rays(
      with_gradient(field) if self.gradient else field,
      rays,
      self.sampler,
      self.compositor,
      opacity=self.opacity.bind(params.get("opacity", {})),
      noise=noise,
      window=None if width is None else Window(centre, width),
      light=light,
      chunk=chunk,
    )
