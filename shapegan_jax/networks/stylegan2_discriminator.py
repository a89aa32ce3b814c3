"""The discriminator of StyleGAN2 (Karras et al. 2020): residual blocks that halve the image down to 4 x 4 pixels."""

from __future__ import annotations

import itertools
import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.equalised import EqualConv, EqualLinear
from shapegan_jax.networks.fir import blur, downsample
from shapegan_jax.networks.layers import init_lazily
from shapegan_jax.types import Key, PyTree


class HalvingBlock(nn.Module):
  """Residual block: two convolutions, the second with stride 2 on low-pass filtered features, and a downsampled skip.

  Halves the resolution; the sum is divided by sqrt(2).
  """

  in_features: int
  features: int
  clamp: float = 0.0

  def setup(self):
    self.conv_0 = EqualConv(self.in_features, self.in_features, 3, clamp=self.clamp)
    self.conv_1 = EqualConv(self.in_features, self.features, 3, stride=2, clamp=self.clamp)
    self.skip = EqualConv(self.in_features, self.features, 1, active=False, clamp=self.clamp)

  def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
    y = self.conv_1(blur(self.conv_0(x), (2, 2)))
    return (y + self.skip(downsample(x))) / math.sqrt(2)


def minibatch_stddev(x: Float[Array, "b h w c"], group: int) -> Float[Array, "b h w c+1"]:
  """Appends a channel with the standard deviation within each group of images, averaged over pixels and channels.

  The global batch (over all devices) is split into groups by reshaping it to [group, b / group]; a `group` larger than
  b counts as b, otherwise it must divide b.
  """
  b, h, w, c = x.shape
  group = min(group, b)
  groups = x.reshape(group, b // group, h, w, c)
  variance = jnp.mean((groups - groups.mean(0, keepdims=True)) ** 2, 0)
  stddev = jnp.mean(jnp.sqrt(variance + 1e-8), (1, 2, 3))
  channel = jnp.broadcast_to(jnp.tile(stddev, group)[:, None, None, None], (b, h, w, 1))
  return jnp.concatenate([x, channel], -1)


class Discriminator(nn.Module):
  """Images in [-1, 1] -> logits [b]; large means real. `channels` are those at 4, 8, 16, ... pixels.

  `group` is the group size of `minibatch_stddev`; `clamp` limits activations to +-`clamp` (0: no limit).
  """

  channels: tuple[int, ...]
  group: int = 4
  clamp: float = 0.0

  def setup(self):
    last, first = self.channels[-1], self.channels[0]
    self.entrance = EqualConv(3, last, 1, clamp=self.clamp)  # fromRGB; stored files have the name "entrance"
    self.blocks = [HalvingBlock(a, b, self.clamp) for a, b in itertools.pairwise(self.channels[::-1])]
    self.conv = EqualConv(first + 1, first, 3, clamp=self.clamp)
    self.hidden = EqualLinear(16 * first, first, active=True)
    self.logit = EqualLinear(first, 1)

  @property
  def resolution(self) -> int:
    """The side of its input images in pixels."""
    return 2 ** (len(self.channels) + 1)

  def __call__(self, image: Float[Array, "b r r 3"]) -> Float[Array, " b"]:
    x = self.entrance(image)
    for block in self.blocks:
      x = block(x)
    x = self.conv(minibatch_stddev(x, self.group))
    return self.logit(self.hidden(x.reshape(x.shape[0], -1)))[:, 0]

  def features(self, image: Float[Array, "b h w 3"], count: int = 4) -> list[Float[Array, "b _ _ _"]]:
    """The outputs of the first `count` blocks. Images may have other sizes than `resolution`, which logits require."""
    x, found = self.entrance(image), []
    for block in self.blocks[:count]:
      found.append(x := block(x))
    return found

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} for images of `resolution` x `resolution` pixels."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))
