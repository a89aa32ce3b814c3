"""The discriminator of StyleGAN2 (Karras et al. 2020): residual blocks that halve the picture down to 4 x 4 pixels."""

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
  """Two convolutions, the second of stride 2 on the filtered features, and a filtered skip path of half the size."""

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


def minibatch_deviation(x: Float[Array, "b h w c"], group: int) -> Float[Array, "b h w c+1"]:
  """One more channel: how much a group of the batch varies, the mean over pixels and channels of its deviations.

  Groups are those of a batch reshaped to [group, b / group], over all devices; `group` is at most b, whose divisor it
  must be.
  """
  b, h, w, c = x.shape
  group = min(group, b)
  parted = x.reshape(group, b // group, h, w, c)
  variance = jnp.mean((parted - parted.mean(0, keepdims=True)) ** 2, 0)
  deviation = jnp.mean(jnp.sqrt(variance + 1e-8), (1, 2, 3))
  channel = jnp.broadcast_to(jnp.tile(deviation, group)[:, None, None, None], (b, h, w, 1))
  return jnp.concatenate([x, channel], -1)


class Discriminator(nn.Module):
  """A picture [-1, 1] -> a logit; large means real. `channels` are those at 4, 8, 16, ... pixels.

  `group` is the size of the groups of `minibatch_deviation`; `clamp` as in the generator.
  """

  channels: tuple[int, ...]
  group: int = 4
  clamp: float = 0.0

  def setup(self):
    last, first = self.channels[-1], self.channels[0]
    self.entrance = EqualConv(3, last, 1, clamp=self.clamp)
    self.blocks = [HalvingBlock(a, b, self.clamp) for a, b in itertools.pairwise(self.channels[::-1])]
    self.conv = EqualConv(first + 1, first, 3, clamp=self.clamp)
    self.hidden = EqualLinear(16 * first, first, active=True)
    self.logit = EqualLinear(first, 1)

  @property
  def resolution(self) -> int:
    """Pixels a side of the pictures it judges."""
    return 2 ** (len(self.channels) + 1)

  def __call__(self, image: Float[Array, "b r r 3"]) -> Float[Array, " b"]:
    x = self.entrance(image)
    for block in self.blocks:
      x = block(x)
    x = self.conv(minibatch_deviation(x, self.group))
    return self.logit(self.hidden(x.reshape(x.shape[0], -1)))[:, 0]

  def features(self, image: Float[Array, "b h w 3"], count: int = 4) -> list[Float[Array, "b _ _ _"]]:
    """The answers of the first `count` blocks. Pictures need not have the size that the logit needs."""
    x, found = self.entrance(image), []
    for block in self.blocks[:count]:
      found.append(x := block(x))
    return found

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """The variables `init` returns."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))
