"""Networks that estimate what a generator needs to reproduce an image: codes, pose and light.

`ImageEncoder` returns all of them, standardised, for a generator of this package. `VectorEncoder` (view or light) and
`OffsetEncoder` (latent offset) are those of Unsup3D (Wu et al. 2020, supplement) and GAN2Shape (Pan et al. 2021).
"""

from __future__ import annotations

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.networks.discriminators import StridedBlock
from shapegan_jax.networks.layers import Conv, Linear, init_lazily
from shapegan_jax.types import Key, PyTree

_SMALLEST = 4


class ImageEncoder(nn.Module):
  """Strided residual blocks with coordinate convolutions down to 4 x 4, then one linear layer.

  The published encoder (ShadeGAN) is its discriminator with more outputs; this is a narrower network of the same
  blocks. `resolution` is a power of two, at least 8; the first convolution halves it, and `width` doubles with every
  further halving up to `max_width`. `code_size` is the total length of the codes, `light_size` is 4 or 0.
  """

  code_size: int
  light_size: int = 0
  resolution: int = 32
  width: int = 48
  max_width: int = 192

  def setup(self):
    widths = [min(self.max_width, self.width * 2**i) for i in range(_halvings(self.resolution))]
    self.entrance = Conv(3, widths[0], 5, stride=2, padding=2, coord=True)
    self.blocks = [StridedBlock(a, b) for a, b in itertools.pairwise(widths)]
    self.heads = Linear(_SMALLEST**2 * widths[-1], self.code_size + 2 + self.light_size)

  def __call__(
    self, image: Float[Array, "b r r 3"]
  ) -> tuple[Float[Array, "b c"], Float[Array, "b 2"], Float[Array, "b l"]]:
    """Images in [-1, 1] -> standardised codes, pose (yaw, pitch) and light (length `light_size`)."""
    x = jax.nn.leaky_relu(self.entrance(image), 0.2)
    for block in self.blocks:
      x = block(x)
    outputs = self.heads(x.reshape(x.shape[0], -1))
    codes, pose, light = jnp.split(outputs, [self.code_size, self.code_size + 2], axis=-1)
    return codes, pose, light

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} for images of `resolution` x `resolution` pixels."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))


class VectorEncoder(nn.Module):
  """[b, s, s, 3] in [-1, 1] -> [b, features] in (-1, 1): strided convolutions down to 4 x 4, two layers, and a tanh.

  No biases or norms. `width` is the number of channels at s/2 (published: 64 at s = 64, 32 at s = 128); it doubles with
  every halving.
  """

  features: int
  resolution: int = 64
  width: int = 64

  @nn.compact
  def __call__(self, image: Float[Array, "b s s 3"]) -> Float[Array, "b f"]:
    x, channels = image, 3
    for i in range(_halvings(self.resolution)):
      x = nn.relu(Conv(channels, self.width * 2**i, 4, 2, 1, use_bias=False, name=f"down_{i}")(x))
      channels = self.width * 2**i
    x = nn.relu(Conv(channels, channels, 4, use_bias=False, name="hidden")(x))
    return nn.tanh(Conv(channels, self.features, 1, use_bias=False, name="head")(x))[:, 0, 0]

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} for images of `resolution` x `resolution` pixels."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))


class OffsetEncoder(nn.Module):
  """[b, s, s, 3] in [-1, 1] -> [b, features], unbounded: residual blocks down to 4 x 4, then two layers.

  `width` is the number of channels at s/2 (published: 32); it doubles with every halving and once in the hidden layer.
  """

  features: int
  resolution: int = 64
  width: int = 32

  @nn.compact
  def __call__(self, image: Float[Array, "b s s 3"]) -> Float[Array, "b f"]:
    x, channels = Conv(3, self.width, 4, 2, 1, use_bias=False, name="entrance")(image), self.width
    for i in range(_halvings(self.resolution) - 1):
      x, channels = HalvingBlock(channels, 2 * channels, name=f"blocks_{i}")(x), 2 * channels
    x = nn.relu(Conv(channels, 2 * channels, 4, use_bias=False, name="hidden")(nn.relu(x)))
    return Conv(2 * channels, self.features, 1, use_bias=False, name="head")(x)[:, 0, 0]

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} for images of `resolution` x `resolution` pixels."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))


class HalvingBlock(nn.Module):
  """Pre-activation residual block: two 3 x 3 convolutions, the first with stride 2; the skip path projects 2 x 2 means.

  The skip path reads the input after its ReLU, as in the published code, whose ReLU overwrites the input.
  """

  in_features: int
  features: int

  def setup(self):
    self.conv_0 = Conv(self.in_features, self.features, 3, 2, 1, use_bias=False)
    self.conv_1 = Conv(self.features, self.features, 3, padding=1, use_bias=False)
    self.skip = Conv(self.in_features, self.features, 1)

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    x = nn.relu(x)
    b, h, w, c = x.shape
    return self.conv_1(nn.relu(self.conv_0(x))) + self.skip(x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4)))


def _halvings(resolution: int) -> int:
  """The number of halvings from `resolution` down to 4 x 4 pixels."""
  halvings = math.log2(resolution / _SMALLEST)
  if halvings < 1 or halvings % 1:
    raise UserError(f"the encoder cannot read images of {resolution} pixels: choose a power of two, at least 8")
  return int(halvings)
