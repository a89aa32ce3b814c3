"""Losses on the shape."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def surface_tracking_loss(
  relative: Float[Array, "b m m"],
  distance: Float[Array, "b h w"],
  *,
  near: float,
  far: float,
  perceptual_fn: Callable[[Array, Array], Array] | None = None,
) -> Float[Array, ""]:
  """How far the surface network's map is from the rendered distance (Pan et al. 2021, ShadeGAN, eq. 8).

  Mean |predicted - rendered| with both mapped to [-1, 1] over [near, far], plus the mean of
  `perceptual_fn(predicted, rendered)` on [b, m, m, 3] pictures of them if given. The rendered map is resized (bilinear)
  to the predicted one's size and carries no gradient: the network follows the field.

  Args:
    relative: predicted distance along the ray, relative to [near, far], in [0, 1].
    distance: rendered distance along the ray.
  """
  target = jax.lax.stop_gradient((distance - near) / (far - near))
  target = jax.image.resize(target, relative.shape, "bilinear")
  predicted, target = 2 * relative - 1, 2 * target - 1
  loss = jnp.mean(jnp.abs(predicted - target))
  if perceptual_fn is not None:
    as_image = (*relative.shape, 3)
    picture, reference = (jnp.broadcast_to(x[..., None], as_image) for x in (predicted, target))
    loss = loss + jnp.mean(perceptual_fn(picture, reference))
  return loss
