"""The one ray pipeline: sample a field along rays, turn its answers into alphas, composite, shade.

Training, previews, evaluation, interpolation and inversion all call `render_rays`. It serves one instance (one closure
`FieldFn`) and rays [n, ...]; batches of instances use `jax.vmap`. Everything random is drawn for all rays before the
rays are cut into chunks, so the chunk size changes results only by rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.numerics import l2_normalize
from shapegan_jax.rendering import compositing
from shapegan_jax.types import FieldFn, FieldSamples, Key, Lights, Rays, Rendering, SampledField, Shader, record

Opacity = Callable[[Array, Array], Array]
"""(raw [*r, s], deltas [*r, s]) -> alphas [*r, s]: the door through which a field enters the compositor."""


@dataclasses.dataclass(frozen=True)
class Density:
  """raw -> density by `clamp` ("relu" as pi-GAN, or "softplus"), then alpha = 1 - exp(-density * delta)."""

  clamp: str = "relu"

  def __call__(self, raw: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
    activation = {"relu": jax.nn.relu, "softplus": jax.nn.softplus}[self.clamp]
    return compositing.density_to_alphas(activation(raw), deltas)


def occupancy(raw: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
  """GOF: alpha = sigmoid(logit), whatever the spacing of the samples."""
  del deltas
  return jax.nn.sigmoid(raw)


@record
class Window:
  """A hint where the surface is: sample only `centre` -+ `width`/2 (ShadeGAN's surface tracking).

  A sampler that finds the surface by itself (GOF's) takes the width alone.
  """

  centre: Array | None  # [*r] distance along the ray
  width: Array  # [] total width


@record
class Draws:
  """Everything random a sampler needs, drawn for all rays at once; None stands for the deterministic choice."""

  jitter: Array | None = None  # [*r, coarse] in [-1/2, 1/2]
  fine: Array | None = None  # [*r, fine] in [0, 1]
  neighbour: Array | None = None  # [*r, 3] steps from a surface point to the one its normal is compared with
  coarse_noise: Array | None = None  # [*r, coarse] added to raw when the importance weights are made
  noise: Array | None = None  # [*r, coarse + fine] added to raw before compositing


@runtime_checkable
class Sampler(Protocol):
  """Chooses points along rays, evaluates the field there, and returns what it evaluated with gradient, sorted."""

  @property
  def points_per_ray(self) -> int: ...  # evaluated with gradient: what memory in flight is counted by

  def draw(self, key: Key | None, shape: tuple[int, ...], *, noise_std: Array | None = None) -> Draws: ...

  def __call__(self, field_fn: FieldFn, rays: Rays, draws: Draws, hints: Window | None) -> SampledField: ...


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

  opacity: Opacity = Density()
  shader: Shader | None = None
  background: float = 0.0
  last_back: bool = False
  normalise_distance: bool = True

  def __call__(self, sampled: SampledField, rays: Rays, noise: Array | None, light: Lights | None) -> Rendering:
    raw = sampled.samples.raw if noise is None else sampled.samples.raw + noise
    weights = compositing.weights_from_alphas(self.opacity(raw, sampled.deltas))
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
  draws: Draws,
  hints: Any = None,
  light: Lights | None = None,
  chunk: int | None = None,
) -> Rendering:
  """Render rays [n, ...] of one instance in chunks of `chunk` rays (None: all at once), each rematerialised backward.

  `hints` is a pytree whose leaves are [n, ...] (per ray) or scalars. The light is one record without leading axes.
  Memory in flight is that of one chunk; on a CPU a chunk that fits the cache is three to five times faster than one
  batch.
  """
  n_rays = rays.near.shape[0]

  def render_chunk(inputs: tuple[Rays, Draws, Any]) -> Rendering:
    rays, draws, hints = inputs
    return compositor(sampler(field_fn, rays, draws, hints), rays, draws.noise, light)

  if chunk is None or chunk >= n_rays:
    return render_chunk((rays, draws, hints))
  n_chunks = -(-n_rays // chunk)
  pad = n_chunks * chunk - n_rays

  def cut(leaf: Array) -> Array:
    if leaf.ndim == 0:  # a scalar hint is the same for every chunk
      return jnp.broadcast_to(leaf, (n_chunks,))
    padded = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], pad, axis=0)]) if pad else leaf
    return padded.reshape(n_chunks, chunk, *leaf.shape[1:])

  chunks = jax.tree.map(cut, (rays, draws, hints))
  rendering = jax.lax.map(jax.checkpoint(render_chunk), chunks)
  return jax.tree.map(lambda leaf: leaf.reshape(n_chunks * chunk, *leaf.shape[2:])[:n_rays], rendering)
