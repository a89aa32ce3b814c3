"""The adversarial losses. Logits are before any sigmoid: large means "real". Softplus is log(1 + exp(x))."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def discriminator_loss(real_logits: Float[Array, "*b n"], fake_logits: Float[Array, "*b n"]) -> Float[Array, ""]:
  """E softplus(fake) + E softplus(-real) (Goodfellow et al. 2014, the logistic loss)."""
  return jnp.mean(jax.nn.softplus(fake_logits)) + jnp.mean(jax.nn.softplus(-real_logits))


def generator_loss(
  fake_logits: Float[Array, "*b n"], *, top_fraction: float | Float[Array, ""] = 1.0
) -> Float[Array, ""]:
  """E softplus(-fake), the non-saturating loss, over the best `top_fraction` of each group along the last axis."""
  return jnp.mean(top_k_mean(jax.nn.softplus(-fake_logits), fake_logits, fraction=top_fraction))


def top_k_mean(
  losses: Float[Array, "*b n"], logits: Float[Array, "*b n"], *, fraction: float | Float[Array, ""]
) -> Float[Array, "*b"]:
  """Mean of the losses of the ceil(fraction * n) highest logits along the last axis (Sinha et al. 2020).

  `fraction` may be traced: the shapes do not depend on it. Which images count carries no gradient. Among equal logits
  the earlier counts. The published loops apply it to each part of a batch that is differentiated at once, and so per
  device: give those parts as a leading axis.
  """
  n = logits.shape[-1]
  # The small number keeps 0.6 * 5 at 3 where float32 rounds the product up.
  count = jnp.clip(jnp.ceil(fraction * n - 1e-4), 1, n)
  rank = jnp.argsort(jnp.argsort(-jax.lax.stop_gradient(logits), axis=-1), axis=-1)
  return jnp.sum(jnp.where(rank < count, losses, 0.0), -1) / count


def logits_and_r1(
  discriminator_fn: Callable[[Array], Array], images: Float[Array, "b h w c"]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
  """Logits of real images and |d logit / d image|^2, from one forward and one backward pass (Mescheder et al. 2018).

  The published penalty is half of their mean times its weight. Differentiating this with respect to the discriminator's
  parameters is reverse over reverse, the cheap form of the second derivative.
  """
  logits, pull_back = jax.vjp(discriminator_fn, images)
  (gradient,) = pull_back(jnp.ones_like(logits))
  return logits, jnp.sum(gradient**2, axis=(1, 2, 3))


def consistency_loss(predicted: Float[Array, "*b d"], target: Float[Array, "*b d"]) -> Float[Array, ""]:
  """Mean squared error between what the discriminator reads off a fake, (pitch, yaw) in radians or a latent, and what
  made it."""
  return jnp.mean((predicted - target) ** 2)
