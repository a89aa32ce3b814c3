"""Coordinates of the inversion search, standardised by the generator's own statistics: codes, pose and light.

Every coordinate has mean 0 and standard deviation 1 over the generator's priors, so one learning rate fits all of them
and the squared length of a point measures how atypical it is.
"""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from shapegan_jax.geometry.cameras import MAX_PITCH
from shapegan_jax.methods.base import Method, sample_scene
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Cameras, Codes, Lights, PyTree, record

_SAMPLES = 2048  # latents, poses and lights from which the statistics are computed
_MOST_AXES = 512
_LEAST_VARIANCE = 1e-6  # relative to the largest; anything below is rounding


@record
class Point:
  """n points of the space: what is optimised. `light` is None for methods without light."""

  codes: Array  # [n, k]
  pose: Array  # [n, 2] yaw, pitch
  light: Array | None  # [n, 4]


@record
class CodeSpace:
  """Means and scales of a generator's codes, poses and lights.

  The codes are measured along the principal axes of their distribution, so that the squared length of a point is the
  Mahalanobis distance from the mean code.
  """

  code_means: tuple[Array, ...]  # [d_i] each, in the order of `Codes.values`
  code_deviations: tuple[Array, ...]  # [d_i] each
  code_axes: tuple[Array, ...]  # [k, d_i] each: together k orthogonal axes, each as long as its standard deviation
  pose_mean: Array  # [2] yaw, pitch; radians
  pose_deviation: Array  # [2]
  light_mean: Array | None  # [4]
  light_root: Array | None  # [4, 4] symmetric root of the covariance

  def point(self, codes: Codes, cameras: Cameras, lights: Lights | None) -> Point:
    """The point nearest to codes, a pose and a light; the inverse of the three functions below."""
    away = jnp.concatenate([c - m[None] for c, m in zip(codes.values, self.code_means, strict=True)], -1)
    axes = jnp.concatenate(self.code_axes, -1)
    coordinates = away @ (axes / jnp.sum(axes * axes, -1, keepdims=True)).T
    pose = jnp.stack([cameras.yaw, cameras.pitch], -1) - self.pose_mean[None]
    fixed = self.pose_deviation[None] == 0  # a prior of one pose
    pose = jnp.where(fixed, 0.0, pose / jnp.where(fixed, 1.0, self.pose_deviation[None]))
    light = None
    if lights is not None and self.light_root is not None:
      light = (lights.code - self.light_mean[None]) @ jnp.linalg.pinv(self.light_root, rtol=1e-4).T
    return Point(coordinates, pose, light)

  def codes(self, point: Point) -> Codes:
    """Codes [n, ...] of points."""
    pairs = zip(self.code_means, self.code_axes, strict=True)
    return Codes(tuple(mean[None] + point.codes @ axes for mean, axes in pairs))

  def angles(self, point: Point) -> tuple[Array, Array]:
    """Yaw and pitch [n] in radians."""
    pose = self.pose_mean[None] + self.pose_deviation[None] * point.pose
    return pose[:, 0], jnp.clip(pose[:, 1], -MAX_PITCH, MAX_PITCH)

  def lights(self, point: Point) -> Lights | None:
    """Lights [n], or None."""
    return None if point.light is None else Lights(self.light_mean[None] + point.light @ self.light_root.T)

  def centre(self, n: int) -> Point:
    """n times the mean code, pose and light."""
    light = None if self.light_mean is None else jnp.zeros((n, 4))
    return Point(jnp.zeros((n, self.code_axes[0].shape[0])), jnp.zeros((n, 2)), light)


def measure(method: Method, params: PyTree) -> CodeSpace:
  """The space of a generator, from samples that are always the same."""
  key = stream(root_key(0), "code space")
  scene = sample_scene(method, key, _SAMPLES)
  codes = [np.asarray(values, np.float64) for values in method.codes(params, scene.latents).values]
  means = [values.mean(0) for values in codes]
  away = np.concatenate([values - mean for values, mean in zip(codes, means, strict=True)], -1)
  _, lengths, directions = np.linalg.svd(away / np.sqrt(_SAMPLES - 1), full_matrices=False)
  kept = (lengths**2 > _LEAST_VARIANCE * lengths[0] ** 2)[:_MOST_AXES].sum()
  axes = lengths[:kept, None] * directions[:kept]
  cuts = np.cumsum([mean.size for mean in means])[:-1]
  poses = np.stack([scene.cameras.yaw, scene.cameras.pitch], -1).astype(np.float64)
  mean = root = None
  if scene.lights is not None:
    light_codes = np.asarray(scene.lights.code, np.float64)
    values, vectors = np.linalg.eigh(np.cov(light_codes, rowvar=False))
    mean, root = light_codes.mean(0), (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
  found = (
    tuple(means),
    tuple(values.std(0) for values in codes),
    tuple(np.split(axes, cuts, axis=-1)),
    poses.mean(0),
    poses.std(0),
    mean,
    root,
  )
  return CodeSpace(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), found))


def fingerprint(params: PyTree) -> str:
  """A name for a generator's parameters, which a copy stored as float16 shares."""
  digest = hashlib.sha256()
  leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
  for name in sorted(leaves):
    values = np.asarray(leaves[name], np.float16)
    digest.update(f"{name}{values.shape}".encode() + values.tobytes())
  return digest.hexdigest()[:16]
