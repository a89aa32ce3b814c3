"""A picture -> what a generator would need to draw it: codes, pose and light, all in standardised numbers."""

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

  The published encoder (ShadeGAN) is its discriminator with more outputs; this is a narrow relative with the same
  blocks. `resolution` is a power of two from 8 on; the first convolution halves it, and `width` doubles with every
  further halving up to `max_width`. `code_size` is the length of all codes together, `light_size` 4 or 0.
  """

  code_size: int
  light_size: int = 0
  resolution: int = 32
  width: int = 48
  max_width: int = 192

  def setup(self):
    halvings = math.log2(self.resolution / _SMALLEST)
    if halvings < 1 or halvings % 1:
      raise UserError(f"the encoder cannot read pictures of {self.resolution} pixels: choose a power of two from 8 on")
    widths = [min(self.max_width, self.width * 2**i) for i in range(int(halvings))]
    self.entrance = Conv(3, widths[0], 5, stride=2, padding=2, coord=True)
    self.blocks = [StridedBlock(a, b) for a, b in itertools.pairwise(widths)]
    self.heads = Linear(_SMALLEST**2 * widths[-1], self.code_size + 2 + self.light_size)

  def __call__(
    self, image: Float[Array, "b r r 3"]
  ) -> tuple[Float[Array, "b c"], Float[Array, "b 2"], Float[Array, "b l"]]:
    """Pictures in [-1, 1] -> standardised codes, pose (yaw, pitch) and light (length 0 without one)."""
    x = jax.nn.leaky_relu(self.entrance(image), 0.2)
    for block in self.blocks:
      x = block(x)
    answer = self.heads(x.reshape(x.shape[0], -1))
    codes, pose, light = jnp.split(answer, [self.code_size, self.code_size + 2], axis=-1)
    return codes, pose, light

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """The variables `init` returns."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))
