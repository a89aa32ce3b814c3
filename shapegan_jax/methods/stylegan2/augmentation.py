"""Augmentation of the discriminator's inputs: random shifts of real images, and adaptive augmentation (ADA) of both.

ADA (Karras et al. 2020, arXiv 2006.06676): real and generated images undergo the same augmentations, each with
probability p, and p is adapted to the discriminator's overfitting. While p stays below about 0.8 the augmentations do
not leak into generated images. All of them are differentiable in the image; strengths are the authors' ("bgc").
Departures: resampling is bilinear without a wavelet filter, and images are padded with their edge pixels, where the
authors' are mirrored.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.rng import stream
from shapegan_jax.types import Key, record

_WINDOW = 256  # images over which the sign of the real logits is averaged


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Settings of the augmentations.

  Args:
    shift: largest shift of a real image as a fraction of its size, for data sets of centred objects.
    adaptive: use ADA.
    target: of ADA, for the mean sign of the real logits.
    images: over which p would change from 0 to 1; each step changes it by batch size / `images`.
  """

  shift: float = 0.0
  adaptive: bool = False
  target: float = 0.6
  images: int = 500_000


@record
class AugmentState:
  """The state of ADA."""

  probability: Array  # []
  real_sign: Array  # [] running mean of the sign of the real logits

  @classmethod
  def fresh(cls) -> AugmentState:
    """The state at the start of training, with p = 0."""
    return cls(probability=jnp.zeros(()), real_sign=jnp.zeros(()))


def adapted(state: AugmentState, real_logits: Float[Array, " b"], config: AugmentConfig) -> AugmentState:
  """The state after a batch."""
  batch = real_logits.shape[0]
  weight = min(1.0, batch / _WINDOW)
  sign = state.real_sign + weight * (jnp.mean(jnp.sign(real_logits)) - state.real_sign)
  probability = state.probability + batch / config.images * jnp.sign(sign - config.target)
  return AugmentState(probability=jnp.clip(probability, 0.0, 1.0), real_sign=sign)


def shifted(image: Float[Array, "b h w c"], key: Key, limit: float) -> Float[Array, "b h w c"]:
  """Each image shifted by whole pixels, up to a fraction `limit` of its size, and padded with its edge pixels."""
  b, h, w, c = image.shape
  pixels = round(limit * h)
  if pixels == 0:
    return image
  padded = jnp.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
  starts = jax.random.randint(key, (b, 2), 0, 2 * pixels + 1)
  return jax.vmap(lambda image, start: jax.lax.dynamic_slice(image, (start[0], start[1], 0), (h, w, c)))(padded, starts)


def augmented(
  image: Float[Array, "b s s 3"], key: Key, probability: float | Float[Array, ""]
) -> Float[Array, "b s s 3"]:
  """Images in [-1, 1] after geometric and colour augmentations, each of which is applied with `probability`."""
  return moved(recolored(image, stream(key, "color"), probability), stream(key, "place"), probability)


def moved(image: Float[Array, "b s s c"], key: Key, probability: float | Float[Array, ""]) -> Float[Array, "b s s c"]:
  """Flip, rotation by 90 degrees, integer shift, scaling, rotation, anisotropic scaling, rotation, fractional shift."""
  b, side = image.shape[:2]
  chance, uniform, normal = _numbers(key, b)
  # There are two rotations, before and after the anisotropic scaling; at least one is applied with `probability`.
  once = 1 - jnp.sqrt(1 - jnp.asarray(probability))
  mirror = jnp.where((chance[0] < probability) & (uniform[0] < 0), -1.0, 1.0)
  quarter = jnp.where(chance[1] < probability, math.pi / 2 * jnp.floor(2 + 2 * uniform[1]), 0.0)
  pixels = jnp.where(chance[2] < probability, jnp.round(0.125 * side * uniform[2:4]), 0.0)
  scale = jnp.where(chance[3] < probability, 2 ** (0.2 * normal[0]), 1.0)
  turn = jnp.where(chance[4] < once, math.pi * uniform[4], 0.0)
  stretch = jnp.where(chance[5] < probability, 2 ** (0.2 * normal[1]), 1.0)
  turn_after = jnp.where(chance[6] < once, math.pi * uniform[5], 0.0)
  shift = jnp.where(chance[7] < probability, 0.125 * side * normal[2:4], 0.0)
  pixel = 2 / (side - 1)  # coordinates are [-1, 1] from the centre of the first pixel to that of the last
  # From output to input coordinates.
  places = _scaling(mirror, jnp.ones(b)) @ _rotation(quarter) @ _translation(*(pixel * pixels))
  places = places @ _scaling(scale, scale) @ _rotation(turn) @ _scaling(stretch, 1 / stretch) @ _rotation(turn_after)
  places = places @ _translation(*(pixel * shift))
  line = jnp.linspace(-1.0, 1.0, side)
  grid = jnp.stack([*jnp.meshgrid(line, line), jnp.ones((side, side))], -1)
  return sample_image(image, jnp.clip(jnp.einsum("bij,hwj->bhwi", places[:, :2], grid), -1.0, 1.0))


def recolored(
  image: Float[Array, "b h w 3"], key: Key, probability: float | Float[Array, ""]
) -> Float[Array, "b h w 3"]:
  """Brightness, contrast, luma flip, hue and saturation, applied to grey level and chroma separately."""
  chance, uniform, normal = (x[:, :, None, None, None] for x in _numbers(key, image.shape[0]))
  brightness = jnp.where(chance[0] < probability, 0.2 * normal[0], 0.0)
  contrast = jnp.where(chance[1] < probability, 2 ** (0.5 * normal[1]), 1.0)
  negative = jnp.where((chance[2] < probability) & (uniform[0] < 0), -1.0, 1.0)
  hue = jnp.where(chance[3] < probability, math.pi * uniform[1], 0.0)
  saturation = jnp.where(chance[4] < probability, 2 ** normal[2], 1.0)
  grey = image.mean(-1, keepdims=True)
  color = image - grey
  across = (jnp.roll(color, 1, -1) - jnp.roll(color, -1, -1)) / math.sqrt(
    3
  )  # rotation by 90 degrees about the grey axis
  color = jnp.cos(hue) * color + jnp.sin(hue) * across
  return contrast * (negative * (grey + brightness) + saturation * color)


def _numbers(key: Key, count: int) -> tuple[Float[Array, "8 b"], Float[Array, "6 b"], Float[Array, "4 b"]]:
  """Per image 8 numbers of U(0, 1), 6 of U(-1, 1) and 4 standard normal ones, in few calls to shorten compilation."""
  chance = jax.random.uniform(stream(key, "chance"), (8, count))
  uniform = jax.random.uniform(stream(key, "uniform"), (6, count), minval=-1.0, maxval=1.0)
  return chance, uniform, jax.random.normal(stream(key, "normal"), (4, count))


def _translation(x: Float[Array, " b"], y: Float[Array, " b"]) -> Float[Array, "b 3 3"]:
  one, zero = jnp.ones_like(x), jnp.zeros_like(x)
  return _matrices((one, zero, x), (zero, one, y))


def _scaling(x: Float[Array, " b"], y: Float[Array, " b"]) -> Float[Array, "b 3 3"]:
  zero = jnp.zeros_like(x)
  return _matrices((x, zero, zero), (zero, y, zero))


def _rotation(angle: Float[Array, " b"]) -> Float[Array, "b 3 3"]:
  cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
  return _matrices((cos, -sin, zero), (sin, cos, zero))


def _matrices(*rows: tuple[Array, ...]) -> Float[Array, "b 3 3"]:
  zero = jnp.zeros_like(rows[0][0])
  return jnp.stack([jnp.stack(row, -1) for row in (*rows, (zero, zero, zero + 1))], -2)
