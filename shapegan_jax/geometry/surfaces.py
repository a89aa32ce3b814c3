"""Where a ray enters a surface: the first crossing of a function sampled along the ray, and its root.

A function here is positive inside and negative outside, as an occupancy logit is; `t` are lengths along the ray. Shapes
are static: rays without a surface are computed like the others and marked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.types import record


@record
class Bracket:
  """Two points of each ray between which the function changes sign, with its values there; sense only where `found`."""

  low: Array  # [*r] length along the ray, outside
  high: Array  # [*r] length along the ray, inside
  value_low: Array  # [*r] negative
  value_high: Array  # [*r] positive
  found: Array  # [*r] bool


def first_crossing(t: Float[Array, "*r s"], values: Float[Array, "*r s"]) -> Bracket:
  """The first interval of sorted `t` whose ends have opposite signs, `found` where that leads from free space inside.

  A ray whose first sample is already inside has no entrance: its first crossing, if any, leads outside (GOF's rule).
  Values of exactly 0 have no sign and bracket nothing.
  """
  changes = values[..., :-1] * values[..., 1:] < 0
  index = jnp.argmax(changes, -1, keepdims=True)

  def take(x: Array, i: Array) -> Array:
    return jnp.take_along_axis(x, i, -1)[..., 0]

  value_low = take(values, index)
  found = changes.any(-1) & (value_low < 0) & (values[..., 0] < 0)
  return Bracket(take(t, index), take(t, index + 1), value_low, take(values, index + 1), found)


def refine_root(
  function: Callable[[Array], Array],
  bracket: Bracket,
  steps: int,
  *,
  rule: Literal["secant", "bisection"] = "secant",
) -> Float[Array, "*r"]:
  """A root of `function` ([*r] lengths -> [*r] values) within each bracket, by `steps` evaluations.

  "secant" cuts the bracket where the chord is zero (regula falsi, GOF), "bisection" in the middle; the answer is the
  cut of what is left. Elsewhere than where `bracket.found` the answer is finite and means nothing.
  """
  cut = {"secant": _chord_root, "bisection": lambda b: (b.low + b.high) / 2}[rule]

  def narrow(_: Any, bracket: Bracket) -> Bracket:
    t = cut(bracket)
    value = function(t)
    outside = value < 0
    return Bracket(
      low=jnp.where(outside, t, bracket.low),
      high=jnp.where(outside, bracket.high, t),
      value_low=jnp.where(outside, value, bracket.value_low),
      value_high=jnp.where(outside, bracket.value_high, value),
      found=bracket.found,
    )

  return cut(jax.lax.fori_loop(0, steps, narrow, bracket))


def _chord_root(bracket: Bracket) -> Array:
  rise = bracket.value_high - bracket.value_low
  rise = jnp.where(bracket.found & (rise > 0), rise, 1.0)
  t = bracket.low - bracket.value_low * (bracket.high - bracket.low) / rise
  return jnp.clip(t, bracket.low, bracket.high)
