"""Ray-surface intersection: the first sign change of a function sampled along the ray, and its root.

The function is positive inside and negative outside, like an occupancy logit; `t` is the distance along the ray. Shapes
are static: rays without a surface are computed like the others and marked as such.
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
  """The interval of each ray in which the function changes sign, with its values at the ends; valid where `found`."""

  low: Array  # [*r] distance along the ray, outside
  high: Array  # [*r] distance along the ray, inside
  value_low: Array  # [*r] negative
  value_high: Array  # [*r] positive
  found: Array  # [*r] bool


def first_crossing(t: Float[Array, "*r s"], values: Float[Array, "*r s"]) -> Bracket:
  """The first interval of sorted `t` with opposite signs at its ends; `found` where it leads from outside to inside.

  A ray whose first sample is already inside has no entry point: its first crossing, if any, leads outside (GOF's rule).
  Values of exactly 0 do not count as a change of sign.
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
  """A root of `function` ([*r] distances -> [*r] values) within each bracket, with `steps` evaluations.

  "secant" splits the bracket at the zero of its chord (regula falsi, GOF), "bisection" in the middle; the result is the
  splitting point of the last bracket. Where `bracket.found` is false the result is finite but meaningless.
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
