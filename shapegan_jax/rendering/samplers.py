"""Samplers: where along its ray a field is evaluated.

pi-GAN's hierarchical sampling; and those that look for the surface of an occupancy field, GOF's contracting region and
rendering at the root alone. There the field's `raw` is an occupancy logit, 0 on the surface and positive inside (Xu et
al. 2021, GOF, section 3).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.geometry import intervals, surfaces
from shapegan_jax.numerics import l2_normalize
from shapegan_jax.rendering import compositing
from shapegan_jax.rendering.opacities import OpacityFn
from shapegan_jax.rendering.volume import SamplingNoise, Window, points_at, with_gradient
from shapegan_jax.rng import stream
from shapegan_jax.types import FieldFn, Key, Rays, SampledField


@dataclasses.dataclass(frozen=True)
class HierarchicalSampler:
  """pi-GAN's sampler: `coarse` jittered points, then `fine` points from the coarse weights; both are composited.

  Without a window the coarse points span [near, far]; with one they span it. `placement` "even" moves each of
  the evenly spaced coarse points by up to half a spacing (pi-GAN); "stratified" draws one from each bin (GRAF). `last`
  names the rule of the last interval: "far" ends at the far plane, "published" is pi-GAN's 1e10.
  """

  coarse: int
  fine: int
  placement: Literal["even", "stratified"] = "even"
  last: Literal["far", "published"] = "far"

  @property
  def points_per_ray(self) -> int:
    return self.coarse + self.fine

  def draw(self, key: Key | None, shape: tuple[int, ...], *, noise_std: Array | None = None) -> SamplingNoise:
    """Random numbers for rays of `shape`; `key=None`: no jitter, evenly spread fine samples, no density noise."""
    if key is None:
      return SamplingNoise()
    jitter, fine, first, second = (stream(key, name) for name in ("jitter", "fine", "coarse raw", "raw"))
    noisy = noise_std is not None
    return SamplingNoise(
      jitter=jax.random.uniform(jitter, (*shape, self.coarse), minval=-0.5, maxval=0.5),
      fine=jax.random.uniform(fine, (*shape, self.fine)) if self.fine else None,
      coarse_raw=noise_std * jax.random.normal(first, (*shape, self.coarse)) if noisy and self.fine else None,
      raw=noise_std * jax.random.normal(second, (*shape, self.coarse + self.fine)) if noisy else None,
    )

  def __call__(
    self, field_fn: FieldFn, rays: Rays, opacity: OpacityFn, noise: SamplingNoise, window: Window | None = None
  ) -> SampledField:
    if window is None:
      t_points = intervals.uniform_points(rays.near, rays.far, self.coarse)
    else:
      t_points = intervals.window_points(window.centre, window.width, rays.near, rays.far, self.coarse)
    if noise.jitter is not None and self.placement == "stratified":
      ends = t_points[..., 0], t_points[..., -1]
      t_points = intervals.stratified_points(*ends, self.coarse, noise.jitter + 0.5, bins="midpoints")
    elif noise.jitter is not None:
      t_points = intervals.jitter(t_points, noise.jitter)
    samples = field_fn(points_at(rays, t_points), rays.viewdirs)
    if self.fine:
      deltas = intervals.deltas_of(t_points, rays.near, rays.far, last=self.last)
      raw = samples.raw if noise.coarse_raw is None else samples.raw + noise.coarse_raw
      weights = compositing.weights_from_alphas(opacity(raw, deltas))
      spread = jnp.linspace(0.0, 1.0, self.fine, dtype=t_points.dtype)
      uniforms = jnp.broadcast_to(spread, (*t_points.shape[:-1], self.fine)) if noise.fine is None else noise.fine
      t_fine = intervals.importance_points(t_points, weights, uniforms)
      fine_samples = field_fn(points_at(rays, t_fine), rays.viewdirs)
      t_points, samples = intervals.merge_sorted(t_points, t_fine, samples, fine_samples)
    deltas = intervals.deltas_of(t_points, rays.near, rays.far, last=self.last)
    return SampledField(t_points=t_points, deltas=deltas, samples=samples)


@dataclasses.dataclass(frozen=True)
class RootSearch:
  """`coarse` evenly spaced points, the first entrance between two of them, `steps` refinements; nothing has a gradient.

  The points are not jittered (published), so what is thinner than their spacing may be missed.
  """

  coarse: int = 9
  steps: int = 4
  rule: Literal["secant", "bisection"] = "secant"

  def __call__(self, field_fn: FieldFn, rays: Rays) -> tuple[Array, Array, Array, Array]:
    """(root [*r], found [*r], t_points [*r, coarse], logits [*r, coarse]); the root means something where found."""

    def logits_at(t: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
      return jax.lax.stop_gradient(field_fn(points_at(rays, t), rays.viewdirs).raw)

    t_points = intervals.uniform_points(rays.near, rays.far, self.coarse)
    logits = logits_at(t_points)
    bracket = surfaces.first_crossing(t_points, logits)
    root = surfaces.refine_root(lambda t: logits_at(t[..., None])[..., 0], bracket, self.steps, rule=self.rule)
    return root, bracket.found, t_points, logits


@dataclasses.dataclass(frozen=True)
class ContractingSampler:
  """GOF's sampler: `surface` jittered points around each root, `fine` points by the coarse weights, evaluated once.

  The window's `width` is the region's total width, which shrinks while training; it is moved to lie within [near, far],
  and is all of it for rays without a surface. What the search evaluated is not composited.

  `extras`: `root` and `found` of each ray; `logits` and `red` (the first colour) [*r, surface + fine]; if `neighbour`
  > 0 (training) and noise is given, `pair` [*r, 2, 3], the unit normals at the root and `neighbour` (world units) away
  in a random direction.
  """

  search: RootSearch
  surface: int
  fine: int
  neighbour: float = 0.0

  @property
  def points_per_ray(self) -> int:
    return self.surface + self.fine

  def draw(self, key: Key | None, shape: tuple[int, ...], *, noise_std: Array | None = None) -> SamplingNoise:
    """Random numbers for rays of `shape`; occupancy has no density noise."""
    del noise_std
    if key is None:
      return SamplingNoise()
    jitter, fine, direction = (stream(key, name) for name in ("jitter", "fine", "neighbour"))
    # Uniform in a cube, then normalised, as published.
    step = self.neighbour * l2_normalize(jax.random.uniform(direction, (*shape, 3), minval=-0.5, maxval=0.5))
    return SamplingNoise(
      jitter=jax.random.uniform(jitter, (*shape, self.surface), minval=-0.5, maxval=0.5),
      fine=jax.random.uniform(fine, (*shape, self.fine)) if self.fine else None,
      neighbour=step if self.neighbour else None,
    )

  def __call__(
    self, field_fn: FieldFn, rays: Rays, opacity: OpacityFn, noise: SamplingNoise, window: Window | None = None
  ) -> SampledField:
    root, found, t_coarse, coarse_logits = self.search(field_fn, rays)
    whole = rays.far - rays.near
    width = whole if window is None else jnp.where(found, window.width, whole)
    t_points = intervals.window_points(root, width, rays.near, rays.far, self.surface)
    if noise.jitter is not None:
      t_points = intervals.jitter(t_points, noise.jitter)
    if self.fine:
      weights = compositing.weights_from_alphas(opacity(coarse_logits, jnp.ones_like(coarse_logits)))
      spread = jnp.broadcast_to(jnp.linspace(0.0, 1.0, self.fine), (*root.shape, self.fine))
      t_fine = intervals.importance_points(t_coarse, weights, spread if noise.fine is None else noise.fine)
      t_points, _ = intervals.merge_sorted(t_points, t_fine)
    samples = field_fn(points_at(rays, t_points), rays.viewdirs)
    extras = {"root": root, "found": found, "logits": samples.raw, "red": samples.color[..., 0]}
    if noise.neighbour is not None:
      centre = points_at(rays, root[..., None])
      pair = jnp.concatenate([centre, centre + noise.neighbour[..., None, :]], -2)
      gradient = field_fn(pair, rays.viewdirs).gradient
      if gradient is None:
        gradient = with_gradient(field_fn)(pair, rays.viewdirs).gradient
      extras["pair"] = l2_normalize(-gradient)
    deltas = intervals.deltas_of(t_points, rays.near, rays.far)
    return SampledField(t_points=t_points, deltas=deltas, samples=samples, extras=extras)


@dataclasses.dataclass(frozen=True)
class PointSampler:
  """One evaluation a ray, at the window's `centre`; where the window's `width` is 0 there is nothing to see."""

  @property
  def points_per_ray(self) -> int:
    return 1

  def draw(self, key: Key | None, shape: tuple[int, ...], *, noise_std: Array | None = None) -> SamplingNoise:
    """Nothing is random."""
    del key, shape, noise_std
    return SamplingNoise()

  def __call__(
    self, field_fn: FieldFn, rays: Rays, opacity: OpacityFn, noise: SamplingNoise, window: Window
  ) -> SampledField:
    del opacity, noise
    t_points = window.centre[..., None]
    samples = field_fn(points_at(rays, t_points), rays.viewdirs)
    present = jnp.broadcast_to(window.width > 0, window.centre.shape)
    return SampledField(t_points, jnp.where(present, jnp.inf, 0.0)[..., None], samples, {"found": present})


@dataclasses.dataclass(frozen=True)
class RootSampler(PointSampler):
  """Surface rendering: one colour evaluation a ray, at its root."""

  search: RootSearch

  def __call__(
    self, field_fn: FieldFn, rays: Rays, opacity: OpacityFn, noise: SamplingNoise, window: Window | None = None
  ) -> SampledField:
    del window
    root, found, _, _ = self.search(field_fn, rays)
    return super().__call__(field_fn, rays, opacity, noise, Window(centre=root, width=found.astype(root.dtype)))
