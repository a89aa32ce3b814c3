"""Lambertian shading with one ambient and one directional light, and priors of the light (ShadeGAN, Unsup3D).

Normals and lights are in the object's frame: rotating the camera does not rotate the light.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.types import Key, Lights


def lambertian(
  albedo: Float[Array, "*r 3"], normals: Float[Array, "*r 3"], lights: Lights, *, ratio: ArrayLike = 1.0
) -> tuple[Float[Array, "*r 3"], Float[Array, "*r 1"]]:
  """(color, shading): s = ambient + diffuse * clip(n . direction, 0, 1), blended s <- ratio s + (1 - ratio).

  color = clip(albedo * s, 0, 1). `normals` are unit vectors; `lights` have all leading axes of the rays, only the first
  ones, or none. `ratio` fades shading in (0: none, 1: full). Light codes are not clipped, so s may leave [0, 1]. There
  are no shadows and no specular term.
  """
  missing = albedo.ndim - lights.code.ndim
  code = jnp.reshape(lights.code, (*lights.code.shape[:-1], *(1,) * missing, lights.code.shape[-1]))
  lights = Lights(code)
  cosine = jnp.clip(jnp.sum(normals * lights.direction, -1), 0.0, 1.0)
  shading = (lights.ambient + lights.diffuse * cosine)[..., None]
  shading = ratio * shading + (1 - ratio)
  return jnp.clip(albedo * shading, 0.0, 1.0), shading


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianLights:
  """The light prior p(l): a Gaussian over the four numbers of a light code. Samples are not clipped (as published)."""

  mean: np.ndarray  # [4]
  cov: np.ndarray  # [4, 4]

  def __post_init__(self):
    mean, cov = np.asarray(self.mean, np.float64), np.asarray(self.cov, np.float64)
    if mean.shape != (4,) or cov.shape != (4, 4):
      raise UserError(
        f"light prior: mean and covariance have shapes {mean.shape} and {cov.shape}; they must be (4,) and (4, 4)"
      )
    smallest = np.linalg.eigvalsh((cov + cov.T) / 2).min()
    if not np.allclose(cov, cov.T) or smallest < -1e-6 * max(1.0, np.abs(cov).max()):
      raise UserError(
        "light prior: the covariance must be symmetric with no negative eigenvalue; fit it from light codes"
      )
    object.__setattr__(self, "mean", mean)
    object.__setattr__(self, "cov", cov)

  def sample(self, key: Key | None, shape: tuple[int, ...]) -> Lights:
    """Lights `[*shape]`; `key=None` gives the mean light."""
    mean = np.broadcast_to(self.mean.astype(np.float32), (*shape, 4))
    if key is None:
      return Lights(jnp.asarray(mean))
    # The square root by eigenvalues allows directions of zero variance; in numpy, it needs no compilation.
    values, vectors = np.linalg.eigh((self.cov + self.cov.T) / 2)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).astype(np.float32)
    noise = jax.random.normal(key, (*shape, 4))
    return Lights(jnp.asarray(mean) + jnp.matmul(noise, root.T, precision=jax.lax.Precision.HIGHEST))


def fit_gaussian_lights(codes: Float[Array | np.ndarray, "n 4"]) -> GaussianLights:
  """The prior with the mean and the (unbiased) covariance of light codes, such as those of a data set with lights."""
  codes = np.asarray(codes, np.float64)
  if len(codes) < 2 or not np.isfinite(codes).all():
    raise UserError(f"light prior: fitting needs at least two light codes, all finite; found {len(codes)}")
  return GaussianLights(codes.mean(0), np.cov(codes, rowvar=False))
