"""Shape losses: surface tracking (ShadeGAN), and GOF's opacity prior and normal smoothness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Keeps the logarithms finite at occupancies 0 and 1.
_OPACITY_FLOOR = 0.1


def surface_tracking_loss(
  relative: Float[Array, "b m m"],
  distance: Float[Array, "b h w"],
  *,
  near: float,
  far: float,
  perceptual_fn: Callable[[Array, Array], Array] | None = None,
) -> Float[Array, ""]:
  """The difference between the surface network's map and the rendered distance (Pan et al. 2021, ShadeGAN, eq. 8).

  Mean |predicted - rendered|, with both mapped from [near, far] to [-1, 1], plus the mean of `perceptual_fn(predicted,
  rendered)` on them as images [b, m, m, 3], if given. The rendered map is resized (bilinear) to the size of the
  predicted one and carries no gradient, so that the loss does not change the field.

  Args:
    relative: predicted distance along the ray, in [0, 1] relative to [near, far].
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


def opacity_prior(occupancy: Float[Array, "*p"]) -> Float[Array, ""]:
  """Mean of log(0.1 + o) + log(0.1 + 1 - o) - log 0.1 - log 1.1: 0 at o = 0 and 1, 1.186 at o = 1/2.

  Drives each sample to be empty or full: the Beta prior of Neural Volumes (Lombardi et al. 2019, 7.3), as used by GOF.
  """
  peak = jnp.log(_OPACITY_FLOOR + occupancy) + jnp.log(_OPACITY_FLOOR + 1 - occupancy)
  return jnp.mean(peak) - math.log(_OPACITY_FLOOR) - math.log(_OPACITY_FLOOR + 1)


def normal_smoothness(
  pair: Float[Array, "*r 2 3"], found: Bool[Array, "*r"], *, pairing: Literal["points", "components"] = "points"
) -> Float[Array, ""]:
  """Mean squared difference of the normals of neighbouring surface points, over rays that hit the surface (GOF, 3.3).

  Args:
    pair: unit normals of a surface point and of its neighbour.
    found: whether a ray hits the surface.
    pairing: "points" compares the two points, as in the paper; "components" compares x with y of each normal, as in the
      released code, which indexes the wrong axis.
  """
  if pairing == "points":
    difference = pair[..., 0, :] - pair[..., 1, :]
  else:
    difference = pair[..., 0] - pair[..., 1]
  counted = found.astype(pair.dtype)
  per_ray = jnp.mean(difference**2, -1)
  return jnp.sum(counted * per_ray) / jnp.maximum(jnp.sum(counted), 1.0)
