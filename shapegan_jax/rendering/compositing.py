"""From opacities along a ray to pixel values: w_i = alpha_i prod_{j<i} (1 - alpha_j).

Two doors lead in. Densities (per world unit) with interval lengths become alphas by 1 - exp(-density * delta);
occupancies are alphas already. The laws: weights are at least 0, they sum to at most 1, and `acc` + final transmittance
= 1. Nothing is added to a factor to keep it from 0; instead the gradients are those of products and exponentials, which
are finite everywhere.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

# exp(-x) is 0 in float32 beyond 104: an infinite interval with any density in it is opaque.
_OPAQUE = 1e4
# The published normaliser of the expected distance.
_ACC_FLOOR = 1e-5


def density_to_alphas(densities: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
  """alpha = 1 - exp(-density * delta); `densities` are at least 0, per world unit, `deltas` in world units."""
  return -jnp.expm1(-_optical_depth(densities, deltas))


def weights_from_alphas(alphas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
  """w_i = alpha_i prod_{j<i} (1 - alpha_j), alphas in [0, 1]. The gradient is exact at 0 and at 1 too.

  The product stays a product: in log space alpha = 1 is log 0, and the factors are too few and too tame to underflow.
  """
  transmittance = jnp.cumprod(1 - alphas[..., :-1], -1)
  return alphas * jnp.concatenate([jnp.ones_like(alphas[..., :1]), transmittance], -1)


def density_to_weights(densities: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
  """`weights_from_alphas(density_to_alphas(...))` with the transmittance in log space, exp(-sum of density * delta).

  The sum over earlier samples is formed without the sample itself, not by subtracting it: with a last interval of 1e10
  the difference would keep no digit.
  """
  depth = _optical_depth(densities, deltas)
  before = jnp.concatenate([jnp.zeros_like(depth[..., :1]), jnp.cumsum(depth[..., :-1], -1)], -1)
  return -jnp.expm1(-depth) * jnp.exp(-before)


def composite(weights: Float[Array, "*r s"], values: Float[Array, "*r s c"]) -> Float[Array, "*r c"]:
  """sum_i w_i v_i: premultiplied by `acc`, with nothing behind. A sum, not a matrix product, to stay in float32."""
  return jnp.sum(weights[..., None] * values, -2)


def expected_distance(
  weights: Float[Array, "*r s"], t: Float[Array, "*r s"], *, near: ArrayLike, far: ArrayLike, normalise: bool = True
) -> Float[Array, "*r"]:
  """Mean of `t` under the weights, along the ray.

  sum(w t) / (acc + 1e-5), clamped to [near, far] (ShadeGAN, GOF); a ray that meets nothing answers near. With
  `normalise=False` it is sum(w t) as it stands (pi-GAN), which falls short of the surface where acc < 1.
  """
  total = jnp.sum(weights * t, -1)
  if not normalise:
    return total
  return jnp.clip(total / (jnp.sum(weights, -1) + _ACC_FLOOR), near, far)


def _optical_depth(densities: Array, deltas: Array) -> Array:
  endless = jnp.isinf(deltas)
  return jnp.where(endless, jnp.where(densities > 0, _OPAQUE, 0.0), densities * jnp.where(endless, 0.0, deltas))
