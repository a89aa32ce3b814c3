"""The light of a picture, estimated from the appearance of the model's own shapes under known lights.

Fitting the light to the average shape fails, since shape, albedo and pose of the picture are unknown: on the heads the
direction is then hardly better than the mean of the prior. So a linear (ridge) regression predicts the four numbers of
a light from the logarithm of the picture. It is fitted to the model's shapes in random poses, each under several random
lights, which costs no more than rendering the shapes once, since albedo and normals do not change.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from shapegan_jax.data.images import load_square
from shapegan_jax.errors import UserError
from shapegan_jax.model import Model
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.reporting.progress import progress
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Lights, Rendering

_SIZE = 16
_BATCH, _BATCHES, _LIGHTS = 32, 10, 8
_RIDGE = 0.03  # of the features' mean square


def read_picture(path: Path, size: int, option: str) -> UInt8[np.ndarray, "size size 3"]:
  """The centred square of a picture file.

  Raises:
    UserError: no such file, or not a picture.
  """
  if not path.is_file():
    raise UserError(f"{option}={path}: no such file; name a picture")
  try:
    return load_square(path, size)
  except Exception as error:  # Pillow raises almost anything for a damaged file
    raise UserError(f"{option}={path}: cannot be read as a picture ({type(error).__name__}); name another") from error


def relit(rendering: Rendering, lights: Lights, background: float, *, behind: bool = False) -> Float[Array, "n h w 3"]:
  """The picture of a rendering [n, h, w] under other lights [n], shaded as the methods' compositor does.

  rgb = clip(clip(albedo s, 0, 1) + (1 - acc) background, 0, 1), where only the shading s changes. With `behind` the
  light comes from the opposite of its direction, since that of a code always has z > 0 (`geometry.lights`).
  """
  normals = jnp.asarray(rendering.normals)
  color, _ = lambertian(jnp.asarray(rendering.albedo), -normals if behind else normals, lights)
  return jnp.clip(color + (1.0 - jnp.asarray(rendering.acc))[..., None] * background, 0.0, 1.0)


def estimate_lights(model: Model, photos: UInt8[np.ndarray, "n h h 3"]) -> Lights:
  """The lights [n] of square pictures of one object each, framed and with the background of the model's own.

  Raises:
    UserError: the model has no light.
  """
  if model.mean_lights(1) is None:
    raise UserError("the light of a picture: this model has no light; use a ShadeGAN")
  features, codes = _examples(model)
  middle, mean = features.mean(0), codes.mean(0)
  features = features - middle
  gram = features.T @ features
  ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
  weights = np.linalg.solve(gram + ridge, features.T @ (codes - mean))
  seen = _features(_shrunk(photos / 255.0))
  return Lights(jnp.asarray((seen - middle) @ weights + mean, jnp.float32))


def _examples(model: Model) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m 4"]]:
  features, codes = [], []
  for batch in progress(range(_BATCHES), "fitting the light regression"):
    key = stream(root_key(0), "light_fit", batch)
    scene = model.sample_scene(_BATCH, key)
    rendering = model.render(scene.latents, scene.cameras, model.mean_lights(_BATCH), resolution=_SIZE)
    for i in range(_LIGHTS):
      lights = model.sample_lights(_BATCH, jax.random.fold_in(key, i))
      shaded = relit(rendering, lights, model.method.background)
      features.append(_features(np.asarray(shaded, np.float64)))
      codes.append(np.asarray(lights.code, np.float64))
  return np.concatenate(features), np.concatenate(codes)


def _features(pictures: Float[np.ndarray, "m s s 3"]) -> Float[np.ndarray, "m d"]:
  return np.log(pictures.mean(-1) + 0.1).reshape(len(pictures), -1)


def _shrunk(pictures: Float[np.ndarray, "m h h 3"]) -> Float[np.ndarray, "m s s 3"]:
  """Resized to the size of the examples."""
  return np.asarray(jax.image.resize(pictures, (len(pictures), _SIZE, _SIZE, 3), "linear"), np.float64)
