"""Reconstruction losses on images and features within a mask, and a smoothness loss for maps."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.numerics import safe_div


def masked_l1(
  image: Float[Array, "*b h w c"], target: Float[Array, "*b h w c"], mask: Float[Array, "*b h w"]
) -> Float[Array, ""]:
  """sum(m |image - target|) / sum(m) for a (soft) mask m >= 0, with m repeated for each channel; 0 for an empty mask.

  The ratio is taken over the whole batch, as in GAN2Shape, so that images with larger masks have more weight.
  """
  channels = image.shape[-1]
  return safe_div(jnp.sum(jnp.abs(image - target) * mask[..., None]), channels * jnp.sum(mask))


def smoothness(maps: Float[Array, "*b h w"]) -> Float[Array, ""]:
  """Mean |d_xx| + |d_xy| + |d_yx| + |d_yy| of the second differences of maps: 0 for planes (Unsup3D, GAN2Shape).

  Each term is averaged separately; the xy and yx terms are equal and both counted, as published.
  """
  dx, dy = jnp.diff(maps, axis=-1), jnp.diff(maps, axis=-2)
  mixed = jnp.mean(jnp.abs(jnp.diff(dx, axis=-2)))
  return jnp.mean(jnp.abs(jnp.diff(dx, axis=-1))) + 2 * mixed + jnp.mean(jnp.abs(jnp.diff(dy, axis=-2)))


def masked_feature_distance(
  features: Sequence[Float[Array, "b _ _ _"]],
  targets: Sequence[Float[Array, "b _ _ _"]],
  mask: Float[Array, "b h w"],
) -> Float[Array, ""]:
  """The sum over layers of `masked_l1`, with the mask averaged to the layer's size (GAN2Shape's discriminator loss).

  The targets carry no gradient. The sides of each layer must divide those of the mask.
  """
  return sum(
    masked_l1(layer, jax.lax.stop_gradient(target), shrink_mask(mask, layer.shape[1]))
    for layer, target in zip(features, targets, strict=True)
  )


def shrink_mask(mask: Float[Array, "*b h w"], size: int) -> Float[Array, "*b size size"]:
  """Average-pools square masks to `size` x `size` pixels; `size` must divide their sides."""
  factor = mask.shape[-1] // size
  return jnp.mean(mask.reshape(*mask.shape[:-2], size, factor, size, factor), (-3, -1))
