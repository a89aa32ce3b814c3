"""The adversarial losses. Logits are before any sigmoid: large means "real". Softplus is log(1 + exp(x))."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError

Fraction = float | Float[Array, ""]


@runtime_checkable
class Loss(Protocol):
  """What the two networks play for. A new loss is a class like this one and its row in `LOSSES`.

  `pairs` says whether fake i is compared with real picture i, so that the generator's step needs real logits too.
  """

  pairs: bool

  def discriminator(self, real_logits: Float[Array, " n"], fake_logits: Float[Array, " n"]) -> Float[Array, ""]:
    """The discriminator's loss."""

  def generator(
    self, fake_logits: Float[Array, "*b n"], real_logits: Float[Array, "*b n"] | None, *, top_fraction: Fraction = 1.0
  ) -> Float[Array, ""]:
    """The generator's loss over the best `top_fraction` of each group along the last axis; real logits if `pairs`."""


@dataclasses.dataclass(frozen=True)
class LogisticLoss:
  """The non-saturating logistic loss (Goodfellow et al. 2014).

  Discriminator: E softplus(fake) + E softplus(-real). Generator: E softplus(-fake).
  """

  pairs = False

  def discriminator(self, real_logits: Float[Array, " n"], fake_logits: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.mean(jax.nn.softplus(fake_logits)) + jnp.mean(jax.nn.softplus(-real_logits))

  def generator(
    self,
    fake_logits: Float[Array, "*b n"],
    real_logits: Float[Array, "*b n"] | None = None,
    *,
    top_fraction: Fraction = 1.0,
  ) -> Float[Array, ""]:
    del real_logits
    return jnp.mean(top_k_mean(jax.nn.softplus(-fake_logits), fake_logits, fraction=top_fraction))


@dataclasses.dataclass(frozen=True)
class RelativisticLoss:
  """The relativistic pairing loss (Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024, equation 2).

  Discriminator: E softplus(-(real - fake)). Generator: E softplus(-(fake - real)). Pairs are the rows of the batch.
  """

  pairs = True

  def discriminator(self, real_logits: Float[Array, " n"], fake_logits: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.mean(jax.nn.softplus(fake_logits - real_logits))

  def generator(
    self, fake_logits: Float[Array, "*b n"], real_logits: Float[Array, "*b n"], *, top_fraction: Fraction = 1.0
  ) -> Float[Array, ""]:
    return jnp.mean(top_k_mean(jax.nn.softplus(real_logits - fake_logits), fake_logits, fraction=top_fraction))


LOSSES: dict[str, Loss] = {"logistic": LogisticLoss(), "relativistic": RelativisticLoss()}
"""`objectives.loss` -> loss. Add one of your own before its config is read."""


def choose_loss(name: str) -> Loss:
  """The loss of a name.

  Raises:
    UserError: none has it.
  """
  if name not in LOSSES:
    raise UserError(f"config.objectives.loss: {name!r} is not one of {', '.join(LOSSES)}")
  return LOSSES[name]


def top_k_mean(losses: Float[Array, "*b n"], logits: Float[Array, "*b n"], *, fraction: Fraction) -> Float[Array, "*b"]:
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


def logits_and_penalty(
  logits_fn: Callable[[Array], tuple[Array, Any]], images: Float[Array, "b h w c"]
) -> tuple[Float[Array, " b"], Float[Array, " b"], Any]:
  """(logits, |d logit / d image|^2, whatever else `logits_fn` returned), from one forward and one backward pass.

  On real pictures this is R1 (Mescheder et al. 2018), on fakes R2; the published penalty is half of the mean times its
  weight. Differentiating it with respect to the discriminator's parameters is reverse over reverse, the cheap form of
  the second derivative.
  """
  logits, pull_back, other = jax.vjp(logits_fn, images, has_aux=True)
  (gradient,) = pull_back(jnp.ones_like(logits))
  return logits, jnp.sum(gradient**2, axis=(1, 2, 3)), other


def consistency_loss(predicted: Float[Array, "*b d"], target: Float[Array, "*b d"]) -> Float[Array, ""]:
  """Mean squared error between what the discriminator reads off a fake, (pitch, yaw) in radians or a latent, and what
  made it."""
  return jnp.mean((predicted - target) ** 2)
