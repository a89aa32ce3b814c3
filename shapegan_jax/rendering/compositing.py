"""Alpha compositing along rays: w_i = alpha_i prod_{j<i} (1 - alpha_j).

Alphas come either from densities (per world unit) and interval lengths, as 1 - exp(-density * delta), or directly from
occupancies. Weights are at least 0 and sum to at most 1; their sum `acc` and the final transmittance sum to 1. No
epsilon is added to the factors: gradients of the products and exponentials are finite everywhere without one.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

# exp(-x) is 0 in float32 beyond 104: an infinite interval with any density is opaque.
_OPAQUE = 1e4
# Added to `acc` in the published expected distance.
_ACC_FLOOR = 1e-5


def density_to_alphas(densities: Float[Array, "*r s"], deltas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
  """alpha = 1 - exp(-density * delta); `densities` are at least 0, per world unit, `deltas` in world units."""
  return -jnp.expm1(-_optical_depth(densities, deltas))


def weights_from_alphas(alphas: Float[Array, "*r s"]) -> Float[Array, "*r s"]:
  """w_i = alpha_i prod_{j<i} (1 - alpha_j), alphas in [0, 1]. The gradient is exact, also at 0 and 1.

  The product is not computed in log space, where alpha = 1 gives log 0; there are too few factors for it to underflow.
  """
  transmittance = jnp.cumprod(1 - alphas[..., :-1], -1)
  return alphas * jnp.concatenate([jnp.ones_like(alphas[..., :1]), transmittance], -1)


def composite(weights: Float[Array, "*r s"], values: Float[Array, "*r s c"]) -> Float[Array, "*r c"]:
  """sum_i w_i v_i, without a background (premultiplied by `acc`). A sum, not a matrix product, to stay in float32."""
  return jnp.sum(weights[..., None] * values, -2)


def expected_distance(
  weights: Float[Array, "*r s"], t: Float[Array, "*r s"], *, near: ArrayLike, far: ArrayLike, normalise: bool = True
) -> Float[Array, "*r"]:
  """The mean distance `t` along the ray under the weights.

  sum(w t) / (acc + 1e-5), clipped to [near, far] (ShadeGAN, GOF); near for a ray that hits nothing. With
  `normalise=False` it is sum(w t) (pi-GAN), which is too close to the camera where acc < 1.
  """
  total = jnp.sum(weights * t, -1)
  if not normalise:
    return total
  return jnp.clip(total / (jnp.sum(weights, -1) + _ACC_FLOOR), near, far)


def _optical_depth(densities: Array, deltas: Array) -> Array:
  endless = jnp.isinf(deltas)
  return jnp.where(endless, jnp.where(densities > 0, _OPAQUE, 0.0), densities * jnp.where(endless, 0.0, deltas))
