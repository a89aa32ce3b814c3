"""How far pictures and their features are from what they should be where it counts, and how rough a map is."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.numerics import safe_div


def masked_l1(
  image: Float[Array, "*b h w c"], target: Float[Array, "*b h w c"], mask: Float[Array, "*b h w"]
) -> Float[Array, ""]:
  """sum(m |image - target|) / sum(m), the mask (>= 0, soft ones weigh) counted once a channel; 0 for an empty mask.

  One ratio over the whole batch, as in GAN2Shape: a picture with more in its mask counts more.
  """
  channels = image.shape[-1]
  return safe_div(jnp.sum(jnp.abs(image - target) * mask[..., None]), channels * jnp.sum(mask))


def smoothness(maps: Float[Array, "*b h w"]) -> Float[Array, ""]:
  """Mean |xx| + |xy| + |yx| + |yy| of the second differences of maps: 0 for planes (Unsup3D, GAN2Shape).

  Each term is a mean of its own; xy and yx are the same numbers and count twice, as published.
  """
  dx, dy = jnp.diff(maps, axis=-1), jnp.diff(maps, axis=-2)
  mixed = jnp.mean(jnp.abs(jnp.diff(dx, axis=-2)))
  return jnp.mean(jnp.abs(jnp.diff(dx, axis=-1))) + 2 * mixed + jnp.mean(jnp.abs(jnp.diff(dy, axis=-2)))


def masked_feature_distance(
  features: Sequence[Float[Array, "b _ _ _"]],
  targets: Sequence[Float[Array, "b _ _ _"]],
  mask: Float[Array, "b h w"],
) -> Float[Array, ""]:
  """Sum over layers of `masked_l1`, the mask averaged down to each layer's size (GAN2Shape, its discriminator loss).

  The targets carry no gradient. A layer's sides divide those of the mask.
  """
  return sum(
    masked_l1(layer, jax.lax.stop_gradient(target), shrink_mask(mask, layer.shape[1]))
    for layer, target in zip(features, targets, strict=True)
  )


def shrink_mask(mask: Float[Array, "*b h w"], size: int) -> Float[Array, "*b size size"]:
  """The mask's mean over the squares of pixels that become one; `size` divides its sides, which are equal."""
  factor = mask.shape[-1] // size
  return jnp.mean(mask.reshape(*mask.shape[:-2], size, factor, size, factor), (-3, -1))
