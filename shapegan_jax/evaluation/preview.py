"""The preview picture of a run: one fixed set of latents, so that pictures of different steps are comparable."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.model import Model
from shapegan_jax.reporting.previews import YAWS_DEG, preview_grid, yaw_labels
from shapegan_jax.rng import root_key, stream


def preview(model: Model, *, count: int, resolution: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
  """The preview picture: always the same `count` latents, lights and poses, then each latent at three yaws (for methods
  without shape: at three truncations)."""
  scene = model.sample_scene(count, stream(root_key(0), "preview"))
  latents, cameras, lights = scene.latents, scene.cameras, scene.lights
  front = model.render(latents, cameras, lights, resolution=resolution)
  turned = {}
  if not model.method.has_shape:
    for truncation in (0.7, 0.5, 0.0):
      turned[f"psi {truncation}"] = model.render(latents, cameras, resolution=resolution, truncation=truncation)
    return preview_grid(front, cameras, turned)
  for label, yaw in zip(yaw_labels(), YAWS_DEG, strict=True):
    side = jnp.full_like(cameras.yaw, math.radians(yaw))
    view = orbit_cameras(side, jnp.zeros_like(side), fov=cameras.fov, radius=cameras.radius)
    turned[label] = model.render(latents, view, lights, resolution=resolution)
  return preview_grid(front, cameras, turned)
