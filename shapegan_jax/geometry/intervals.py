"""Sampling along rays. In this file `t` always holds distances along the ray, one per *sample*, `s` of them.

`tdist` holds the s + 1 interval boundaries around samples. Nothing here generates random numbers: offsets and `u` are
arguments, so that callers can sample them before splitting the rays into chunks. The sample axis is last; all leading
shapes work.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from shapegan_jax.types import PyTree

PUBLISHED_LAST_DELTA = 1e10
# Added to the weights twice in the published code (once by the caller, once inside the sampler).
_WEIGHT_FLOOR = 2e-5
_MIN_CDF_STEP = 1e-5


def uniform_points(near: Float[Array, "*r"], far: Float[Array, "*r"], n: int) -> Float[Array, "*r {n}"]:
  """`n` evenly spaced points from near to far, both included; a single point is in the middle."""
  return _between(near, far, _fractions(n))


def stratified_points(
  near: Float[Array, "*r"],
  far: Float[Array, "*r"],
  n: int,
  offsets: Float[Array, "*r {n}"],
  *,
  bins: Literal["equal", "midpoints"] = "equal",
) -> Float[Array, "*r {n}"]:
  """One point in each of `n` bins of [near, far], at the fraction `offsets` in [0, 1] of its bin; sorted.

  "equal" bins are those of NeRF's equation 2. "midpoints" are those of its code, also used by GRAF: their boundaries
  are half-way between the points of `uniform_points`, so that the first and the last bin have half the width.
  """
  steps = jnp.arange(n, dtype=near.dtype)
  if bins == "equal" or n == 1:
    low, high = steps / n, (steps + 1) / n
  else:
    low, high = jnp.maximum(steps - 0.5, 0) / (n - 1), jnp.minimum(steps + 0.5, n - 1) / (n - 1)
  low, high = _like(low, offsets), _like(high, offsets)
  fractions = low + (high - low) * offsets
  return near[..., None] + (far - near)[..., None] * fractions


def jitter(
  t: Float[Array, "*r s"],
  offsets: Float[Array, "*r s"],
  near: ArrayLike | None = None,
  far: ArrayLike | None = None,
) -> Float[Array, "*r s"]:
  """Moves each of the evenly spaced `t` by offsets * spacing, `offsets` in [-1/2, 1/2] (pi-GAN).

  Samples move independently and are not clamped, as published: the outermost may leave [near, far] by half a spacing.
  The order is kept, but neighbours may coincide. The spacing is (far - near) / (s - 1), by default between the first
  and the last of `t`; a single sample moves within [near, far], and not at all if these are not given.
  """
  near = t[..., :1] if near is None else jnp.broadcast_to(jnp.asarray(near, t.dtype), t.shape[:-1])[..., None]
  far = t[..., -1:] if far is None else jnp.broadcast_to(jnp.asarray(far, t.dtype), t.shape[:-1])[..., None]
  return t + offsets * ((far - near) / max(t.shape[-1] - 1, 1))


def window_points(
  centre: Float[Array, "*r"], width: ArrayLike, near: ArrayLike, far: ArrayLike, n: int
) -> Float[Array, "*r {n}"]:
  """`n` evenly spaced points over a window of total `width`, shifted so that it lies within [near, far] (ShadeGAN).

  `width` may be traced (it shrinks during training). A window wider than the range becomes the range.
  """
  near = jnp.broadcast_to(jnp.asarray(near, centre.dtype), centre.shape)
  far = jnp.broadcast_to(jnp.asarray(far, centre.dtype), centre.shape)
  half = jnp.minimum(jnp.asarray(width, centre.dtype), far - near) / 2
  centre = jnp.clip(centre, near + half, far - half)
  return _between(centre - half, centre + half, _fractions(n))


def fenceposts(t: Float[Array, "*r s"], near: ArrayLike, far: ArrayLike) -> Float[Array, "*r s+1"]:
  """`tdist`: near, the midpoints of sorted `t`, far; midpoints are clipped to [near, far]."""
  near = jnp.broadcast_to(jnp.asarray(near, t.dtype), t.shape[:-1])[..., None]
  far = jnp.broadcast_to(jnp.asarray(far, t.dtype), t.shape[:-1])[..., None]
  middles = jnp.clip((t[..., 1:] + t[..., :-1]) / 2, near, far)
  return jnp.concatenate([near, middles, far], -1)


def deltas_of(
  t: Float[Array, "*r s"],
  near: ArrayLike,
  far: ArrayLike,
  *,
  last: Literal["far", "infinite", "published"] = "far",
) -> Float[Array, "*r s"]:
  """Length of the interval of each of the sorted samples: from the sample to the next one.

  `last` is the end of the last interval. "far": at far, and only the parts within [near, far] count, so that the sum is
  at most far - near. "infinite": an infinite length, which compositing treats as opaque if there is any density,
  without gradient. "published": a length of 1e10, as in pi-GAN and NeRF; gradients of that density can reach 1e10.
  """
  if last == "far":
    near = jnp.broadcast_to(jnp.asarray(near, t.dtype), t.shape[:-1])[..., None]
    far = jnp.broadcast_to(jnp.asarray(far, t.dtype), t.shape[:-1])[..., None]
    posts = jnp.concatenate([jnp.clip(t, near, far), far], -1)
    return jnp.maximum(posts[..., 1:] - posts[..., :-1], 0)
  end = jnp.full_like(t[..., :1], jnp.inf if last == "infinite" else PUBLISHED_LAST_DELTA)
  return jnp.concatenate([t[..., 1:] - t[..., :-1], end], -1)


def importance_points(
  t: Float[Array, "*r s"], weights: Float[Array, "*r s"], u: Float[Array, "*r n"]
) -> Float[Array, "*r n"]:
  """Points distributed as the weights of a first pass: their inverse cumulative distribution at `u` in [0, 1].

  The published algorithm (NeRF section 5.2 as released, pi-GAN): the density is constant between midpoints of `t`, with
  mass weights[1:-1] + 2e-5, and steps of the cumulative distribution below 1e-5 are replaced by 1. `t` must be sorted
  and have at least three samples. The points are in the order of `u` and carry no gradient.
  """
  if t.shape[-1] < 3:
    raise ValueError(f"importance_points needs at least 3 samples per ray, got {t.shape[-1]}")
  t, weights = jax.lax.stop_gradient(t), jax.lax.stop_gradient(weights)
  bins = (t[..., 1:] + t[..., :-1]) / 2
  mass = weights[..., 1:-1] + _WEIGHT_FLOOR
  pdf = mass / jnp.sum(mass, -1, keepdims=True)
  cdf = jnp.concatenate([jnp.zeros_like(pdf[..., :1]), jnp.cumsum(pdf, -1)], -1)
  # Both sequences are increasing, so the neighbours of u are a maximum and a minimum: no search or gather is needed.
  before = cdf[..., None, :] < u[..., :, None]

  def neighbours(values: Array) -> tuple[Array, Array]:
    values = values[..., None, :]
    below = jnp.max(jnp.where(before, values, values[..., :1]), -1)
    above = jnp.min(jnp.where(before, values[..., -1:], values), -1)
    return below, above

  (cdf_below, cdf_above), (bin_below, bin_above) = neighbours(cdf), neighbours(bins)
  step = cdf_above - cdf_below
  step = jnp.where(step < _MIN_CDF_STEP, 1.0, step)
  return bin_below + (u - cdf_below) / step * (bin_above - bin_below)


def merge_sorted(
  t_a: Float[Array, "*r a"], t_b: Float[Array, "*r b"], samples_a: PyTree = None, samples_b: PyTree = None
) -> tuple[Float[Array, "*r a+b"], PyTree]:
  """Merges two sets of samples, sorted by t: returns (t, samples).

  `samples_a` and `samples_b` are pytrees of the same structure with leaves `[*r, a, ...]` and `[*r, b, ...]`, such as
  `FieldSamples`; gradients flow through them and through `t`.
  """
  axis = t_a.ndim - 1
  order = _sorting_order(jax.lax.stop_gradient(jnp.concatenate([t_a, t_b], axis)))

  def gather(a: Array, b: Array) -> Array:
    both = jnp.concatenate([a, b], axis)
    indices = jnp.reshape(order, (*order.shape, *(1,) * (both.ndim - order.ndim)))
    return jnp.take_along_axis(both, indices, axis, mode="promise_in_bounds")

  return gather(t_a, t_b), jax.tree.map(gather, samples_a, samples_b)


def _sorting_order(t: Float[Array, "*r s"]) -> Int[Array, "*r s"]:
  """`jnp.argsort(t)`, stable, by comparing all pairs: 20 times as fast on a CPU with 20 samples per ray."""
  index = jnp.reshape(jnp.arange(t.shape[-1]), (*(1,) * (t.ndim - 1), -1))
  mine, other = t[..., :, None], t[..., None, :]
  earlier = (other < mine) | ((other == mine) & (index[..., None, :] < index[..., :, None]))
  rank = jnp.sum(earlier, -1)
  return jnp.sum(jnp.where(rank[..., None, :] == index[..., :, None], index[..., None, :], 0), -1)


def _fractions(n: int) -> Float[Array, "{n}"]:
  return jnp.linspace(0.0, 1.0, n) if n > 1 else jnp.full((1,), 0.5)


def _like(values: Float[Array, "s"], other: Float[Array, "*r s"]) -> Float[Array, "*_ s"]:
  return jnp.reshape(values, (*(1,) * (other.ndim - 1), values.shape[0]))


def _between(low: Float[Array, "*r"], high: Float[Array, "*r"], fractions: Float[Array, "n"]) -> Float[Array, "*r n"]:
  fractions = jnp.reshape(fractions, (*(1,) * low.ndim, fractions.shape[0]))
  return low[..., None] * (1 - fractions) + high[..., None] * fractions
