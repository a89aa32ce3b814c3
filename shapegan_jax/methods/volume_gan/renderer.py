"""What the FiLM-SIREN generators (pi-GAN, GOF, ShadeGAN) share: codes, field, pose prior, a batch of renderings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from shapegan_jax import parallel
from shapegan_jax.geometry.rays import distance_to_depth
from shapegan_jax.rendering.volume import Compositor, Draws, Sampler, Window, render_rays, with_gradient
from shapegan_jax.types import Array, Cameras, FieldFn, Lights, PyTree, Rays, Rendering

ACCELERATOR_POINTS = 1 << 18
"""The points in flight that `device_chunk_points` chooses on an accelerator."""


@dataclasses.dataclass(frozen=True)
class RenderConfig:
  """How rays are sampled and composited. `fine` adds as many importance samples as there are coarse ones.

  `last` is the rule of the last interval ("far" or pi-GAN's "published" 1e10); `density_noise_steps` the step at
  which the density noise has faded (0: never any); `chunk_points` the points in flight (0: chosen for the device).
  `eval_samples` per pass replaces the stage's count at inference (0: the last stage's).
  """

  fine: bool = True
  clamp: str = "relu"
  last: str = "far"
  last_back: bool = False
  eval_last_back: bool = False
  background: float = 0.0
  normalise_distance: bool = True
  density_noise_steps: int = 5000
  eval_samples: int = 0
  chunk_points: int = 0


def device_chunk_points() -> int:
  """Points in flight: what a CPU's cache holds, or enough to keep an accelerator busy within its memory."""
  return 4096 if jax.default_backend() == "cpu" else ACCELERATOR_POINTS


def chunk_rays(n_rays: int, points_per_ray: int, batch: int, points: int) -> int:
  """Rays per chunk and instance for about `points` points in flight: a divisor of `n_rays` if it can be.

  `n_rays` rays of each of `batch` instances are rendered on a device.
  """
  wanted = max(1, points // max(1, points_per_ray * batch))
  if wanted >= n_rays:
    return n_rays
  divisors = [d for d in range(max(1, wanted // 2), wanted + 1) if n_rays % d == 0]
  return divisors[-1] if divisors else wanted


def render_instances(
  field_of: Callable[[PyTree, tuple[Array, Array], Lights | None], FieldFn],
  params: PyTree,
  codes: tuple[Array, Array],
  cameras: Cameras,
  rays: Rays,
  lights: Lights | None,
  sampler: Sampler,
  compositor: Compositor,
  *,
  resolution: int,
  draws: Draws,
  window: Window | None = None,
  gradient: bool = False,
  points: int,
) -> Rendering:
  """Render instance i, under light i, along its own rays from camera i: a `vmap` of the ray pipeline.

  Instances and rays are shared by the devices (`parallel.share_rays`), each of which has about `points` points in
  flight. `rays` are [b, resolution^2], those of a square picture or patch, which is [b, resolution, resolution, ...].
  """
  batch = rays.near.shape[0]

  def render_one(
    params: PyTree,
    of_instance: tuple[tuple[Array, Array], Lights | None, Array | None],
    of_rays: tuple[Rays, Draws, Array | None],
    chunk: int,
  ) -> Rendering:
    (codes, light, width), (rays, draws, centre) = of_instance, of_rays
    field = field_of(params, codes, light)
    return render_rays(
      with_gradient(field) if gradient else field,
      rays,
      sampler,
      compositor,
      draws=draws,
      hints=None if width is None else Window(centre, width),
      light=light,
      chunk=chunk,
    )

  def render_share(params: PyTree, instances: PyTree, of_rays: tuple[Rays, Draws, Array | None]) -> Rendering:
    b, n = of_rays[0].near.shape
    chunk = chunk_rays(n, sampler.points_per_ray, b, points)
    return jax.vmap(partial(render_one, chunk=chunk), in_axes=(None, 0, 0))(params, instances, of_rays)

  width = None if window is None else jnp.broadcast_to(window.width, (batch,))  # one for all, as an axis to map over
  centre = None if window is None else window.centre
  flat = parallel.share_rays(render_share, params, (codes, lights, width), (rays, draws, centre))
  depth = distance_to_depth(flat.distance, cameras, rays.viewdirs)
  flat = dataclasses.replace(flat, depth=depth)
  return jax.tree.map(lambda leaf: leaf.reshape(batch, resolution, resolution, *leaf.shape[2:]), flat)
