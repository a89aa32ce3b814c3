"""Rays of perspective cameras, and conversion between `distance` along the ray and `depth` along the optical axis.

Rotations are sums of products, not matrix products: those may run in bfloat16 on a TPU, and an error of 0.4 % in a
direction is several pixels.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from shapegan_jax.types import Cameras, Rays


def cast_rays(cameras: Cameras, pixels: Float[Array, "*p 2"], *, near: ArrayLike, far: ArrayLike) -> Rays:
  """Rays `[*b, *p]` from cameras `[*b]` through image points shared by all of them.

  A direction is R (x, y, -1/tan(fov/2)), normalised, in the world frame. As it is a unit vector, `near`, `far` (world
  units) and every t are Euclidean distances from the camera (pi-GAN), not depths. For points that differ between
  cameras use `vmap`.
  """
  leading, points = cameras.fov.shape, pixels.shape[:-1]
  shape = (*leading, *points)
  focal = _beside_pixels(1.0 / jnp.tan(cameras.fov / 2), cameras, len(points))
  xy = jnp.broadcast_to(pixels, (*shape, 2))
  towards = jnp.concatenate([xy, jnp.broadcast_to(-focal, shape)[..., None]], -1)
  towards = towards / jnp.linalg.norm(towards, axis=-1, keepdims=True)
  viewdirs = rotate_to_world(towards, cameras)
  origins = jnp.broadcast_to(_beside_pixels(cameras.cam2world[..., :3, 3], cameras, len(points)), (*shape, 3))
  dtype = viewdirs.dtype
  return Rays(
    origins=origins,
    directions=viewdirs,
    viewdirs=viewdirs,
    near=jnp.broadcast_to(jnp.asarray(near, dtype), shape),
    far=jnp.broadcast_to(jnp.asarray(far, dtype), shape),
  )


def distance_to_depth(
  distance: Float[Array, "*r"], cameras: Cameras, viewdirs: Float[Array, "*r 3"]
) -> Float[Array, "*r"]:
  """depth = distance * cos(angle between ray and optical axis); the axes `*r` begin with those of the cameras, `*b`."""
  return distance * _cos_to_axis(cameras, viewdirs)


def depth_to_distance(
  depth: Float[Array, "*r"], cameras: Cameras, viewdirs: Float[Array, "*r 3"]
) -> Float[Array, "*r"]:
  """The inverse of `distance_to_depth`, for rays that point in front of the camera."""
  return depth / _cos_to_axis(cameras, viewdirs)


def rotate_to_world(vectors: Float[Array, "*r 3"], cameras: Cameras) -> Float[Array, "*r 3"]:
  """R v: vectors `[*b, *p, 3]` from each camera's frame (x right, y up, z backwards) to the world frame."""
  rotation = _beside_pixels(cameras.cam2world[..., :3, :3], cameras, vectors.ndim - 1 - cameras.fov.ndim)
  return jnp.sum(rotation * vectors[..., None, :], -1)


def _cos_to_axis(cameras: Cameras, viewdirs: Array) -> Array:
  forward = -_beside_pixels(cameras.cam2world[..., :3, 2], cameras, viewdirs.ndim - 1 - cameras.fov.ndim)
  return jnp.sum(viewdirs * forward, -1)


def _beside_pixels(values: Array, cameras: Cameras, pixel_axes: int) -> Array:
  """Inserts `pixel_axes` axes of length one after the camera axes `*b` of values `[*b, ...]`."""
  batch_axes = cameras.fov.ndim
  return jnp.reshape(values, (*values.shape[:batch_axes], *(1,) * pixel_axes, *values.shape[batch_axes:]))
