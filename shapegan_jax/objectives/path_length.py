"""How far a picture moves when its style does (Karras et al. 2020, StyleGAN2, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def path_lengths(
  synthesize: Callable[[Array], Array], w: Float[Array, "b n d"], directions: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
  """|J^T y| for each picture, J its Jacobian in the styles and y = directions / sqrt(h w).

  With standard normal directions its square is an estimate of the mean squared change of a pixel per unit of style; the
  squares are averaged over the n places of a style. Differentiating this again is reverse over reverse.
  """
  _, pull_back = jax.vjp(synthesize, w)
  (gradient,) = pull_back(directions / math.sqrt(directions.shape[1] * directions.shape[2]))
  return jnp.sqrt(jnp.mean(jnp.sum(gradient**2, -1), -1))


def path_penalty(
  lengths: Float[Array, " b"], mean: Float[Array, ""], *, decay: float = 0.01
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """(mean squared deviation of the lengths from their running mean, that mean), `decay` its share of the new ones."""
  mean = mean + decay * (jnp.mean(lengths) - mean)
  return jnp.mean((lengths - mean) ** 2), mean
