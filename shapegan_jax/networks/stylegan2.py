"""The generator of StyleGAN2 (Karras et al., CVPR 2020, arXiv 1912.04958): a mapping network and a synthesis network.

The mapping network turns a latent z into a style w. The synthesis network starts from a learned constant of 4 x 4
pixels and upsamples it by convolutions whose input channels are scaled by w, with noise added after each. At each
resolution an RGB image is read out and added to the upsampled previous one. Instead of one kernel per image, the inputs
are scaled, convolved with the common kernel, and the outputs scaled: the same numbers in one convolution for the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.convolutions import correlate, upsampling_correlate
from shapegan_jax.networks.equalised import EqualLinear, activate, clamped, standard_normal
from shapegan_jax.networks.fir import upsample
from shapegan_jax.networks.layers import add_bias, init_lazily
from shapegan_jax.types import Key, PyTree

_EPSILON = 1e-8
Noise = Sequence[Float[Array, "_ _ _"]]
"""One noise map [b or 1, s, s] per convolution; their sides s are `Synthesis.noise_sizes`."""


def pixel_norm(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
  """x / sqrt(mean x^2) along the last axis."""
  return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + _EPSILON)


class Mapping(nn.Module):
  """Latents z -> styles w, both of length `size`: `pixel_norm` (step 0), then `layers` linear layers (steps 1, ...)."""

  size: int = 512
  layers: int = 8
  rate: float = 0.01

  def setup(self):
    self.linear = [EqualLinear(self.size, self.size, self.rate, active=True) for _ in range(self.layers)]

  def __call__(self, x: Float[Array, "*b d"], start: int = 0, stop: int | None = None) -> Float[Array, "*b d"]:
    """Applies the steps [start:stop]; by default all of them."""
    for step in [pixel_norm, *self.linear][start:stop]:
      x = step(x)
    return x


class ModulatedConv(nn.Module):
  """A correlation whose input channels are scaled by the style; its outputs are rescaled to unit variance.

  `upsample` doubles the resolution (`convolutions.upsampling_correlate`); only `demodulate` rescales the outputs.
  """

  in_features: int
  features: int
  size: int
  style_size: int
  upsample: bool = False
  demodulate: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "b h w i"], w: Float[Array, "b d"]) -> Float[Array, "b h2 w2 o"]:
    shape = (self.size, self.size, self.in_features, self.features)
    kernel = self.param("kernel", standard_normal(), shape) / math.sqrt(math.prod(shape[:-1]))
    style = EqualLinear(self.style_size, self.in_features, bias=1.0, name="style")(w)
    x = x * style[:, None, None]
    y = upsampling_correlate(x, kernel) if self.upsample else correlate(x, kernel)
    if not self.demodulate:
      return y
    return y * jax.lax.rsqrt(style**2 @ jnp.sum(kernel**2, (0, 1)) + _EPSILON)[:, None, None]


class StyledConv(nn.Module):
  """A modulated convolution, noise times a learned strength, bias and activation."""

  in_features: int
  features: int
  style_size: int
  upsample: bool = False
  clamp: float = 0.0

  def setup(self):
    self.conv = ModulatedConv(self.in_features, self.features, 3, self.style_size, self.upsample)
    self.noise_strength = self.param("noise_strength", nn.initializers.zeros, ())
    self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

  def __call__(
    self, x: Float[Array, "b h w i"], w: Float[Array, "b d"], noise: Float[Array, "_ h2 w2"] | None
  ) -> Float[Array, "b h2 w2 o"]:
    y = self.conv(x, w)
    if noise is not None:
      y = y + self.noise_strength * noise[..., None]
    return activate(y, self.bias, self.clamp)


class ToRgb(nn.Module):
  """Reads out an RGB image from the features: a modulated 1 x 1 convolution without demodulation, and a bias."""

  in_features: int
  style_size: int
  clamp: float = 0.0

  def setup(self):
    self.conv = ModulatedConv(self.in_features, 3, 1, self.style_size, demodulate=False)
    self.bias = self.param("bias", nn.initializers.zeros, (3,))

  def __call__(self, x: Float[Array, "b h w i"], w: Float[Array, "b d"]) -> Float[Array, "b h w 3"]:
    return clamped(add_bias(self.conv(x, w), self.bias), self.clamp)


class Synthesis(nn.Module):
  """Styles -> images (about [-1, 1], not clipped). `channels` are those at 4, 8, 16, ... pixels.

  `clamp` limits activations and images to +-`clamp` (256 in NVIDIA's networks trained in half precision; 0: no limit).
  """

  channels: tuple[int, ...]
  style_size: int = 512
  clamp: float = 0.0

  def setup(self):
    first, *_ = self.channels
    self.const = self.param("const", standard_normal(), (4, 4, first))
    widths = list(itertools.pairwise(self.channels))
    self.ups = [StyledConv(a, b, self.style_size, True, self.clamp) for a, b in widths]
    self.convs = [StyledConv(c, c, self.style_size, False, self.clamp) for c in self.channels]
    self.rgbs = [ToRgb(c, self.style_size, self.clamp) for c in self.channels]

  @property
  def resolution(self) -> int:
    """The side of the images in pixels."""
    return 2 ** (len(self.channels) + 1)

  @property
  def styles(self) -> int:
    """The number of styles per image: one for each convolution, and one for the last RGB layer."""
    return 2 * len(self.channels)

  @property
  def noise_sizes(self) -> tuple[int, ...]:
    """The sides of the noise maps: 4, 8, 8, 16, 16, ..."""
    return (4, *(2 ** (i + 3) for i in range(len(self.channels) - 1) for _ in range(2)))

  def __call__(
    self, w: Float[Array, "b n d"] | Float[Array, "b d"], noise: Noise | None = None
  ) -> Float[Array, "b r r 3"]:
    """Images from one style per image, [b, d], or one per layer, [b, `styles`, d]; `noise=None` adds none."""
    w = jnp.broadcast_to(w[:, None], (w.shape[0], self.styles, w.shape[-1])) if w.ndim == 2 else w
    noise = [None] * len(self.noise_sizes) if noise is None else noise
    x = jnp.broadcast_to(self.const[None], (w.shape[0], *self.const.shape))
    x = self.convs[0](x, w[:, 0], noise[0])
    image = self.rgbs[0](x, w[:, 1])
    for i in range(1, len(self.channels)):
      x = self.ups[i - 1](x, w[:, 2 * i - 1], noise[2 * i - 1])
      x = self.convs[i](x, w[:, 2 * i], noise[2 * i])
      image = upsample(image) + self.rgbs[i](x, w[:, 2 * i + 1])
    return image


class Generator(nn.Module):
  """The mapping and the synthesis network: latents z [b, d] -> images [b, r, r, 3]."""

  mapping: Mapping
  synthesis: Synthesis

  def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b r r 3"]:
    return self.synthesis(self.mapping(z))

  def map(self, x: Float[Array, "*b d"], start: int = 0, stop: int | None = None) -> Float[Array, "*b d"]:
    """Applies the steps [start:stop] of the mapping network (by default: latents -> styles)."""
    return self.mapping(x, start, stop)

  def synthesize(
    self, w: Float[Array, "b n d"] | Float[Array, "b d"], noise: Noise | None = None
  ) -> Float[Array, "b r r 3"]:
    """Styles, one per image or one per layer, and optional noise maps -> images, about in [-1, 1]."""
    return self.synthesis(w, noise)

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": {"mapping": ..., "synthesis": ...}}."""
    return init_lazily(self, key, (1, self.mapping.size))
