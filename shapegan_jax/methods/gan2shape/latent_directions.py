"""Linear directions of view and light in the generator's style space (ours).

They are fitted by ridge regression of styles on the views and lights that the networks predict for their images. The
search for the projected image of a pseudo sample ends near its starting point, so a good start matters: the style of
the instance, moved along these directions by the difference between the view and light of the pseudo sample and those
predicted for the input image. The offset encoder moves it too little, because the projected samples that it is trained
on hardly follow the views of their pseudo samples.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.methods.stylegan2.frozen import FrozenGenerator
from shapegan_jax.numerics import safe_div
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Key, record

_SAMPLES = 1024
_CHUNK = 32
_RIDGE = 1e-3  # relative to the variance of the predictions


@record
class Directions:
  """Directions of n components: a view [6] and a light [4], concatenated, in units of their standard deviations."""

  mean: Array  # [n] of the predictions for random images
  deviation: Array  # [n] their standard deviation
  styles: Array  # [n, latent] least-squares change of a style per standard deviation of each component

  @classmethod
  def zeros(cls, components: int, latent: int) -> Directions:
    """Directions of length 0, along which nothing moves."""
    return cls(jnp.zeros(components), jnp.ones(components), jnp.zeros((components, latent)))

  def offsets(
    self,
    target: Float[Array, "b n"],
    current: Float[Array, "b n"],
    prior_mean: Float[Array, " n"],
    prior_deviation: Float[Array, " n"],
  ) -> Float[Array, "b latent"]:
    """Style offsets from images for which `current` was predicted to images with the view and light `target`.

    Predictions are normalised by their own statistics and targets by the prior's, since networks that underestimate
    views do so for all images.
    """
    wanted = safe_div(target - prior_mean[None], prior_deviation[None])
    predicted = (current - self.mean[None]) / self.deviation[None]
    return (wanted - predicted) @ self.styles


def fit_directions(
  predict: Callable[[Array], Float[Array, "b n"]],
  generate: Callable[[Array], Array],
  gan: FrozenGenerator,
  varying: Float[Array, " n"],
) -> Directions:
  """Fit the directions to random images of the generator, always the same ones.

  Args:
    predict: [b, s, s, 3] images to [b, n] views and lights.
    generate: [b, latent] styles to images.
    gan: samples the styles.
    varying: 0 for components whose prior has no variance; they must not explain what the others do.
  """

  def chunk(key: Key) -> tuple[Array, Array]:
    styles = gan.sample(key, _CHUNK)
    return styles, predict(generate(styles))

  styles, found = jax.lax.map(chunk, jax.random.split(stream(root_key(0), "directions"), _SAMPLES // _CHUNK))
  styles, found = (x.reshape(_SAMPLES, -1) for x in (styles, found))
  mean, deviation = jnp.mean(found, 0), jnp.std(found, 0) + 1e-6
  return Directions(mean, deviation, ridge_regression(varying[None] * (found - mean[None]) / deviation[None], styles))


def ridge_regression(x: Float[Array, "m n"], y: Float[Array, "m d"]) -> Float[Array, "n d"]:
  """Coefficients of y, about its mean, on x, whose columns have mean 0 and standard deviation 1 (or 0)."""
  exact = jax.lax.Precision.HIGHEST
  square = jnp.matmul(x.T, x, precision=exact) + _RIDGE * x.shape[0] * jnp.eye(x.shape[1])
  return jnp.linalg.solve(square, jnp.matmul(x.T, y - jnp.mean(y, 0, keepdims=True), precision=exact))
