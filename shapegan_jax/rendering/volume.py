"""The one ray pipeline: sample a field along rays, turn its answers into alphas, composite, shade.

Training, previews, evaluation, interpolation and inversion all call `render_rays`. It serves one instance (one closure
`FieldFn`) and rays [n, ...]; batches of instances use `jax.vmap`. Everything random is drawn for all rays before the
rays are cut into chunks, so the chunk size changes results only by rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.numerics import l2_normalize
from shapegan_jax.rendering import compositing
from shapegan_jax.rendering.opacities import OpacityFn
from shapegan_jax.types import FieldFn, FieldSamples, Key, Lights, Rays, Rendering, SampledField, Shader, record


@record
class Window:
  """Where to sample: only at `centre` -+ `width`/2 (ShadeGAN's surface tracking).

  A sampler that finds the surface by itself (GOF's) uses the width alone.
  """

  centre: Array | None  # [*r] distance along the ray
  width: Array  # [] total width


@record
class SamplingNoise:
  """Everything random that a sampler needs, drawn for all rays at once; None stands for the deterministic choice."""

  jitter: Array | None = None  # [*r, coarse] in [-1/2, 1/2]
  fine: Array | None = None  # [*r, fine] in [0, 1]
  neighbour: Array | None = None  # [*r, 3] steps from a surface point to the one its normal is compared with
  coarse_raw: Array | None = None  # [*r, coarse] added to raw when the importance weights are made
  raw: Array | None = None  # [*r, coarse + fine] added to raw before compositing


@runtime_checkable
class Sampler(Protocol):
  """Chooses points along rays, evaluates the field there, and returns what it evaluated with gradient, sorted."""

  @property
  def points_per_ray(self) -> int: ...  # evaluated with gradient: what memory in flight is counted by

  def draw(self, key: Key | None, shape: tuple[int, ...], *, noise_std: Array | None = None) -> SamplingNoise: ...

  def __call__(
    self, field_fn: FieldFn, rays: Rays, opacity: OpacityFn, noise: SamplingNoise, window: Window | None
  ) -> SampledField: ...


def points_at(rays: Rays, t_points: Float[Array, "*r s"]) -> Float[Array, "*r s 3"]:
  """o + t d."""
  return rays.origins[..., None, :] + t_points[..., None] * rays.directions[..., None, :]


def with_gradient(field_fn: FieldFn) -> FieldFn:
  """The same field with `gradient` = d raw / d world position, by one reverse pass over the same evaluation."""

  def field_with_gradient(points: Array, viewdirs: Array) -> FieldSamples:
    def split(points):
      samples = field_fn(points, viewdirs)
      return samples.raw, samples.color

    raw, pullback, color = jax.vjp(split, points, has_aux=True)
    return FieldSamples(raw=raw, color=color, gradient=pullback(jnp.ones_like(raw))[0])

  return field_with_gradient


@dataclasses.dataclass(frozen=True)
class Compositor:
  """How weights become pictures. `background` is composited behind what was shaded (a scalar grey level in [0, 1]).

  `last_back` gives what the ray did not absorb to its last sample (pi-GAN's evaluation). `normalise_distance` divides
  by acc as GOF and ShadeGAN do; pi-GAN does not.
  """

  shader: Shader | None = None
  background: float = 0.0
  last_back: bool = False
  normalise_distance: bool = True

  def __call__(
    self,
    sampled: SampledField,
    rays: Rays,
    opacity: OpacityFn,
    raw_noise: Array | None = None,
    light: Lights | None = None,
  ) -> Rendering:
    raw = sampled.samples.raw if raw_noise is None else sampled.samples.raw + raw_noise
    weights = compositing.weights_from_alphas(opacity(raw, sampled.deltas))
    if self.last_back:
      weights = weights.at[..., -1].add(1.0 - weights.sum(-1))
    acc = weights.sum(-1)
    albedo = jnp.clip(compositing.composite(weights, sampled.samples.color), 0.0, 1.0)
    normals = shading = None
    color = albedo
    if sampled.samples.gradient is not None:
      # Raw gradients are averaged before normalising, so that steep samples speak loudest (ShadeGAN eq. 5).
      normals = l2_normalize(-compositing.composite(weights, sampled.samples.gradient))
      if self.shader is not None:
        color, shading = self.shader(albedo, normals, light)
    distance = compositing.expected_distance(
      weights, sampled.t_points, near=rays.near, far=rays.far, normalise=self.normalise_distance
    )
    rgb = color + (1.0 - acc)[..., None] * self.background
    return Rendering(
      rgb=jnp.clip(rgb, 0.0, 1.0),
      albedo=albedo,
      shading=shading,
      normals=normals,
      distance=distance,
      acc=acc,
      extras=sampled.extras,
    )


def render_rays(
  field_fn: FieldFn,
  rays: Rays,
  sampler: Sampler,
  compositor: Compositor,
  *,
  opacity: OpacityFn,
  noise: SamplingNoise,
  window: Window | None = None,
  light: Lights | None = None,
  chunk: int | None = None,
) -> Rendering:
  """Render rays [n, ...] of one instance in chunks of `chunk` rays (None: all at once), each rematerialised backward.

  `window` has leaves that are [n, ...] (per ray) or scalars. The light is one record without leading axes. Memory in
  flight is that of one chunk; on a CPU a chunk that fits the cache is three to five times faster than one batch.
  """
  n_rays = rays.near.shape[0]

  def render_chunk(inputs: tuple[Rays, SamplingNoise, Window | None]) -> Rendering:
    rays, noise, window = inputs
    return compositor(sampler(field_fn, rays, opacity, noise, window), rays, opacity, noise.raw, light)

  if chunk is None or chunk >= n_rays:
    return render_chunk((rays, noise, window))
  n_chunks = -(-n_rays // chunk)
  pad = n_chunks * chunk - n_rays

  def cut(leaf: Array) -> Array:
    if leaf.ndim == 0:  # a scalar width is the same for every chunk
      return jnp.broadcast_to(leaf, (n_chunks,))
    padded = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], pad, axis=0)]) if pad else leaf
    return padded.reshape(n_chunks, chunk, *leaf.shape[1:])

  chunks = jax.tree.map(cut, (rays, noise, window))
  rendering = jax.lax.map(jax.checkpoint(render_chunk), chunks)
  return jax.tree.map(lambda leaf: leaf.reshape(n_chunks * chunk, *leaf.shape[2:])[:n_rays], rendering)
