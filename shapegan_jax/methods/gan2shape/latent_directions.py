"""Where in a generator's styles view and light lie: a linear fit to what the view and light networks read (ours).

A search for the generator's picture of a drawing ends near where it began. It begins well where the subject's style is
moved along these directions by what was asked beyond what the subject shows; the encoder, which has seen drawings whose
views the generator's pictures hardly follow, moves it too little.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.numerics import safe_div
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Key, PyTree, record

_PICTURES = 1024
_AT_ONCE = 32
_RIDGE = 1e-3  # of the readings' variance


@record
class Directions:
  """Views [6] and lights [4] beside each other as n numbers, each measured in its own deviations."""

  mean: Array  # [n] of what is read off fresh pictures
  deviation: Array  # [n]
  styles: Array  # [n, latent] the least squares change of a style with one deviation more of each number

  @classmethod
  def none(cls, numbers: int, latent: int) -> Directions:
    """They move nothing."""
    return cls(jnp.zeros(numbers), jnp.ones(numbers), jnp.zeros((numbers, latent)))

  def offsets(
    self,
    asked: Float[Array, "b n"],
    read: Float[Array, "b n"],
    prior_mean: Float[Array, " n"],
    prior_deviation: Float[Array, " n"],
  ) -> Float[Array, "b latent"]:
    """How far styles move, of which was `read`, so that pictures show what was `asked`.

    A reading's deviations count as the prior's: networks that read too little of a view do so of all pictures.
    """
    wanted = safe_div(asked - prior_mean[None], prior_deviation[None])
    shown = (read - self.mean[None]) / self.deviation[None]
    return (wanted - shown) @ self.styles


def measured_directions(
  read: Callable[[Array], Float[Array, "b n"]],
  picture: Callable[[Array], Array],
  gan: PyTree,
  varying: Float[Array, " n"],
) -> Directions:
  """Of the generator's pictures of fresh styles, always the same ones.

  Args:
    read: [b, s, s, 3] pictures to [b, n] views and lights.
    picture: [b, latent] styles to pictures.
    gan: whose styles they are.
    varying: 0 for numbers that nobody asks for; they must not explain what the others do.
  """

  def some(key: Key) -> tuple[Array, Array]:
    styles = gan.sample(key, _AT_ONCE)
    return styles, read(picture(styles))

  styles, found = jax.lax.map(some, jax.random.split(stream(root_key(0), "directions"), _PICTURES // _AT_ONCE))
  styles, found = (x.reshape(_PICTURES, -1) for x in (styles, found))
  mean, deviation = jnp.mean(found, 0), jnp.std(found, 0) + 1e-6
  return Directions(mean, deviation, regression(varying[None] * (found - mean[None]) / deviation[None], styles))


def regression(x: Float[Array, "m n"], y: Float[Array, "m d"]) -> Float[Array, "n d"]:
  """Ridge regression of y, about its mean, on x of mean 0 and deviation 1 (or 0)."""
  exact = jax.lax.Precision.HIGHEST
  square = jnp.matmul(x.T, x, precision=exact) + _RIDGE * x.shape[0] * jnp.eye(x.shape[1])
  return jnp.linalg.solve(square, jnp.matmul(x.T, y - jnp.mean(y, 0, keepdims=True), precision=exact))
