"""Where rays pass through the image plane. Coordinates are (x to the right, y up), both from -1 to 1 over the image."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def pixel_grid(height: int, width: int, *, corners: bool = True) -> Float[Array, "{height} {width} 2"]:
  """One point per pixel, first row at the top.

  `corners=True` puts the outermost samples on -1 and 1 (pi-GAN and its descendants), so a pixel is 2 / (n - 1) wide and
  the picture shows half a pixel more on each side than `fov`. `corners=False` takes pixel centres, (2 i + 1) / n - 1.
  Both axes span [-1, 1], so the pixels of an image that is not square are not square either.
  """
  x, y = _coordinates(width, corners=corners), -_coordinates(height, corners=corners)
  return jnp.stack(jnp.meshgrid(x, y, indexing="xy"), -1)


def _coordinates(n: int, *, corners: bool) -> Float[Array, "{n}"]:
  if corners and n > 1:
    return jnp.linspace(-1.0, 1.0, n)
  return (2 * jnp.arange(n, dtype=jnp.float32) + 1) / n - 1
