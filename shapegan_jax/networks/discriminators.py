"""Progressively growing discriminators: a fromRGB layer for each power-of-two resolution and one chain of blocks.

An image enters at its own resolution and is halved by residual blocks down to 2 x 2. While a new resolution fades in,
the first block's output is blended with the image of half the size passed through the next fromRGB layer (Karras et al.
2018; Chan et al. 2021, pi-GAN). The layers of all resolutions have parameters from the start, so the parameter tree
does not change as the images grow. Images are NHWC in [-1, 1].
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.networks.layers import Conv, kaiming_normal
from shapegan_jax.types import DiscriminatorOutput, Key, PyTree

# Input channels of the block at each resolution (outputs: those of half the resolution); 400 at 16 pixels and below.
_PROGRESSIVE_CHANNELS = {512: 16, 256: 32, 128: 64, 64: 128, 32: 256}
_STRIDED_CHANNELS = {256: 32, 128: 64, 64: 128, 32: 256}
_DEEPEST_CHANNELS = 400


def _leaky(x: Array) -> Array:
  return jax.nn.leaky_relu(x, 0.2)


def _halve(x: Array) -> Array:
  """Mean over 2 x 2 pixels."""
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class PooledBlock(nn.Module):
  """Two 3 x 3 convolutions, then 2 x 2 average pooling; the skip path is pooled and, if widths differ, projected."""

  in_features: int
  features: int
  coord: bool = True

  def setup(self):
    self.conv_0 = Conv(self.in_features, self.features, 3, padding=1, coord=self.coord)
    self.conv_1 = Conv(self.features, self.features, 3, padding=1, coord=self.coord)
    self.skip = Conv(self.in_features, self.features, 1) if self.in_features != self.features else None

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    y = _leaky(self.conv_1(_leaky(self.conv_0(x))))
    skip = _halve(x) if self.skip is None else self.skip(_halve(x))
    return (_halve(y) + skip) / math.sqrt(2)

  def create_parameters(self) -> None:
    for layer in (self.conv_0, self.conv_1, self.skip):
      if layer is not None:
        layer.create_parameters()


class StridedBlock(nn.Module):
  """Two 3 x 3 convolutions, the second with stride 2; the skip path is always a 1 x 1 convolution with stride 2."""

  in_features: int
  features: int
  coord: bool = True

  def setup(self):
    init = kaiming_normal(0.2)
    self.conv_0 = Conv(self.in_features, self.features, 3, padding=1, coord=self.coord, kernel_init=init)
    self.conv_1 = Conv(self.features, self.features, 3, stride=2, padding=1, coord=self.coord, kernel_init=init)
    self.skip = Conv(self.in_features, self.features, 1, stride=2)

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    return (_leaky(self.conv_1(_leaky(self.conv_0(x)))) + self.skip(x)) / math.sqrt(2)

  def create_parameters(self) -> None:
    for layer in (self.conv_0, self.conv_1, self.skip):
      layer.create_parameters()


class _GrowingDiscriminator(nn.Module):
  """The common parts: fromRGB layers, fade-in and heads. `width_multiplier` and `max_channels` make narrow versions."""

  max_resolution: int
  latent_dim: int = 0
  pose: bool = False
  width_multiplier: float = 1.0
  max_channels: int = _DEEPEST_CHANNELS
  coord: bool = True

  def setup(self):
    sizes = self._sizes()
    # Stored files name the parameters of the fromRGB layers "entrances".
    self.from_rgb = {str(size): Conv(3, self._channels(size), 1, name=f"entrances_{size}") for size in [*sizes, 2]}
    self.blocks = {str(size): self._block(self._channels(size), self._channels(size // 2)) for size in sizes}
    self.heads = Conv(self._channels(2), 1 + self.latent_dim + 2 * self.pose, 2)

  def __call__(
    self, image: Float[Array, "b h w 3"], fade: float | Float[Array, ""] = 1.0, *, fading: bool = True
  ) -> DiscriminatorOutput:
    """Logits [b] (and latents, poses) of square images whose size is a power of two from 4 to `max_resolution`.

    Args:
      fade: weight of the path at the image's own resolution, 0 (just added) to 1; may be traced.
      fading: False leaves the half-resolution path out of the program (as does a Python `fade=1.0`).
    """
    size = image.shape[2]
    if size not in self._sizes() or image.shape[1] != size:
      raise UserError(
        f"the discriminator cannot read images of {image.shape[1]}x{size} pixels: choose a square resolution among "
        f"{', '.join(map(str, reversed(self._sizes())))}, or raise max_resolution"
      )
    if self.is_initializing():
      self.create_parameters()
    x = self.blocks[str(size)](self._features(image))
    if fading and not (isinstance(fade, int | float) and fade == 1):
      x = fade * x + (1 - fade) * self._features(image[:, ::2, ::2])
    while size > 4:
      size //= 2
      x = self.blocks[str(size)](x)
    heads = self.heads(x)[:, 0, 0]
    latent = heads[:, 1 : 1 + self.latent_dim] if self.latent_dim else None
    return DiscriminatorOutput(logit=heads[:, 0], latent=latent, pose=heads[:, -2:] if self.pose else None)

  def create_parameters(self) -> None:
    """Makes Linen create the parameters of all resolutions (through `init`), whatever the size of the first image."""
    for layer in (*self.from_rgb.values(), *self.blocks.values(), self.heads):
      layer.create_parameters()

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} with the layers of every resolution."""
    return self.init(key, method="create_parameters")

  def _features(self, image: Array) -> Array:
    return _leaky(self.from_rgb[str(image.shape[2])](image))

  @nn.nowrap
  def _sizes(self) -> list[int]:
    """The resolutions that have a block, largest first."""
    return [2**n for n in range(int(math.log2(self.max_resolution)), 1, -1)]

  @nn.nowrap
  def _channels(self, size: int) -> int:
    published = self._table().get(size, _DEEPEST_CHANNELS)
    return min(self.max_channels, max(1, round(published * self.width_multiplier)))

  @nn.nowrap
  def _table(self) -> dict[int, int]:
    raise NotImplementedError

  @nn.nowrap
  def _block(self, in_features: int, features: int) -> nn.Module:
    raise NotImplementedError


class ProgressiveDiscriminator(_GrowingDiscriminator):
  """Coordinate convolutions and average pooling: pi-GAN (CARLA), GOF and ShadeGAN (faces).

  The published variant with an encoder has `latent_dim=256, pose=True`; its pose is (pitch, yaw).
  """

  max_resolution: int = 512

  def _table(self) -> dict[int, int]:
    return _PROGRESSIVE_CHANNELS

  def _block(self, in_features: int, features: int) -> nn.Module:
    return PooledBlock(in_features, features, self.coord)


class StridedDiscriminator(_GrowingDiscriminator):
  """Strided convolutions: pi-GAN CelebA (`coord=True, latent_dim=256, pose=True`) and Cats (`coord=False`, logit only).

  The released Cats model contains an unused 2 -> 400 linear layer, which is left out here. A pose head without a latent
  head, as in the narrow default, is our addition.
  """

  max_resolution: int = 256

  def _table(self) -> dict[int, int]:
    return _STRIDED_CHANNELS

  def _block(self, in_features: int, features: int) -> nn.Module:
    return StridedBlock(in_features, features, self.coord)
