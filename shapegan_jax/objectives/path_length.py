"""Path length regularisation: how strongly an image reacts to its style (Karras et al. 2020, StyleGAN2, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def path_lengths(
  synthesize: Callable[[Array], Array], w: Float[Array, "b n d"], directions: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
  """|J^T y| for each image, with the Jacobian J of the image in its styles and y = directions / sqrt(h w).

  With standard normal directions the square estimates the mean squared change of a pixel per unit of style; the squares
  are averaged over the n layers that have a style. Its gradient is reverse-over-reverse differentiation.
  """
  _, pull_back = jax.vjp(synthesize, w)
  (gradient,) = pull_back(directions / math.sqrt(directions.shape[1] * directions.shape[2]))
  return jnp.sqrt(jnp.mean(jnp.sum(gradient**2, -1), -1))


def path_penalty(
  lengths: Float[Array, " b"], mean: Float[Array, ""], *, decay: float = 0.01
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """(mean squared deviation of the lengths from their running mean, the updated mean); `decay` is its update rate."""
  mean = mean + decay * (jnp.mean(lengths) - mean)
  return jnp.mean((lengths - mean) ** 2), mean
