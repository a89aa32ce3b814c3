"""Random changes to what a discriminator sees: shifts of the real pictures, and adaptive augmentation of both kinds.

Adaptive augmentation (Karras et al. 2020, arXiv 2006.06676): real and generated pictures are changed alike, each
change with probability p, and p follows how surely the discriminator knows the real ones. While p stays below about 0.8
the generator does not learn the changes. All are differentiable in the picture. Amounts are the authors' ("bgc").
Departures: pictures are read bilinearly without a wavelet filter, and beyond its edge a picture goes on as the edge
does, where theirs is mirrored.
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

_MEMORY = 256  # pictures over which the sign of the real logits is averaged


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """`shift` is the largest shift of a real picture, in sides, for objects that are always in the middle.

  With `adaptive`, p moves by `batch / images` a step so that the mean sign of the real logits becomes `target`.
  """

  shift: float = 0.0
  adaptive: bool = False
  target: float = 0.6
  images: int = 500_000


@record
class AugmentState:
  """What adaptive augmentation remembers."""

  probability: Array  # []
  real_sign: Array  # [] running mean of the sign of the real logits

  @classmethod
  def fresh(cls) -> AugmentState:
    """Nothing is changed yet."""
    return cls(probability=jnp.zeros(()), real_sign=jnp.zeros(()))


def adapted(state: AugmentState, real_logits: Float[Array, " b"], config: AugmentConfig) -> AugmentState:
  """The state after a batch."""
  batch = real_logits.shape[0]
  share = min(1.0, batch / _MEMORY)
  sign = state.real_sign + share * (jnp.mean(jnp.sign(real_logits)) - state.real_sign)
  probability = state.probability + batch / config.images * jnp.sign(sign - config.target)
  return AugmentState(probability=jnp.clip(probability, 0.0, 1.0), real_sign=sign)


def shifted(image: Float[Array, "b h w c"], key: Key, most: float) -> Float[Array, "b h w c"]:
  """Each picture moved by whole pixels, up to `most` sides each way; its edge fills what it leaves."""
  b, h, w, c = image.shape
  most = round(most * h)
  if most == 0:
    return image
  padded = jnp.pad(image, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
  starts = jax.random.randint(key, (b, 2), 0, 2 * most + 1)
  return jax.vmap(lambda picture, at: jax.lax.dynamic_slice(picture, (at[0], at[1], 0), (h, w, c)))(padded, starts)


def augmented(
  image: Float[Array, "b s s 3"], key: Key, probability: float | Float[Array, ""]
) -> Float[Array, "b s s 3"]:
  """Each picture [-1, 1] changed in place, size, angle and colour, each change with `probability`; 0: as it is."""
  return moved(recolored(image, stream(key, "color"), probability), stream(key, "place"), probability)


def moved(image: Float[Array, "b s s c"], key: Key, probability: float | Float[Array, ""]) -> Float[Array, "b s s c"]:
  """Mirrored, turned by quarters, shifted by whole pixels, scaled, turned, stretched, turned again and shifted."""
  b, side = image.shape[:2]
  chance, uniform, normal = _numbers(key, b)
  # A turn before and after the stretch: together they come with `probability`.
  once = 1 - jnp.sqrt(1 - jnp.asarray(probability))
  mirror = jnp.where((chance[0] < probability) & (uniform[0] < 0), -1.0, 1.0)
  quarter = jnp.where(chance[1] < probability, math.pi / 2 * jnp.floor(2 + 2 * uniform[1]), 0.0)
  pixels = jnp.where(chance[2] < probability, jnp.round(0.125 * side * uniform[2:4]), 0.0)
  scale = jnp.where(chance[3] < probability, 2 ** (0.2 * normal[0]), 1.0)
  turn = jnp.where(chance[4] < once, math.pi * uniform[4], 0.0)
  stretch = jnp.where(chance[5] < probability, 2 ** (0.2 * normal[1]), 1.0)
  turn_after = jnp.where(chance[6] < once, math.pi * uniform[5], 0.0)
  shift = jnp.where(chance[7] < probability, 0.125 * side * normal[2:4], 0.0)
  pixel = 2 / (side - 1)  # the picture is [-1, 1] from the first pixel's centre to the last one's
  # From a place in the answer to the place of the picture that it shows.
  places = _scaling(mirror, jnp.ones(b)) @ _rotation(quarter) @ _translation(*(pixel * pixels))
  places = places @ _scaling(scale, scale) @ _rotation(turn) @ _scaling(stretch, 1 / stretch) @ _rotation(turn_after)
  places = places @ _translation(*(pixel * shift))
  line = jnp.linspace(-1.0, 1.0, side)
  grid = jnp.stack([*jnp.meshgrid(line, line), jnp.ones((side, side))], -1)
  return sample_image(image, jnp.clip(jnp.einsum("bij,hwj->bhwi", places[:, :2], grid), -1.0, 1.0))


def recolored(
  image: Float[Array, "b h w 3"], key: Key, probability: float | Float[Array, ""]
) -> Float[Array, "b h w 3"]:
  """Brightness, contrast, negative brightness, hue and saturation: a grey part and the colour around it."""
  chance, uniform, normal = (x[:, :, None, None, None] for x in _numbers(key, image.shape[0]))
  brightness = jnp.where(chance[0] < probability, 0.2 * normal[0], 0.0)
  contrast = jnp.where(chance[1] < probability, 2 ** (0.5 * normal[1]), 1.0)
  negative = jnp.where((chance[2] < probability) & (uniform[0] < 0), -1.0, 1.0)
  hue = jnp.where(chance[3] < probability, math.pi * uniform[1], 0.0)
  saturation = jnp.where(chance[4] < probability, 2 ** normal[2], 1.0)
  grey = image.mean(-1, keepdims=True)
  color = image - grey
  across = (jnp.roll(color, 1, -1) - jnp.roll(color, -1, -1)) / math.sqrt(3)  # a quarter turn about the grey axis
  color = jnp.cos(hue) * color + jnp.sin(hue) * across
  return contrast * (negative * (grey + brightness) + saturation * color)


def _numbers(key: Key, count: int) -> tuple[Float[Array, "8 b"], Float[Array, "6 b"], Float[Array, "4 b"]]:
  """For each picture chances U(0, 1), U(-1, 1) and standard normal numbers: few calls, each of which is slow to
  compile."""
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
