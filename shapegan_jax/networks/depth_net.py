"""Image -> map: the encoder-decoder with which Unsup3D and GAN2Shape estimate depth and albedo.

"EDDeconv" of Wu et al. 2020 (Unsup3D, supplement) and Pan et al. 2021 (GAN2Shape): convolutions of stride 2 down to
4 x 4, a bottleneck of one vector, and transposed convolutions back up. Only the group norms have biases.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.layers import Conv, Initializer, init_lazily, uniform
from shapegan_jax.types import Key, PyTree

_SLOPE = 0.2


class MapNet(nn.Module):
  """[b, s, s, 3] in [-1, 1] -> [b, s, s, features], without a final activation.

  Args:
    resolution: s, a power of two, at least 8.
    width: channels at s/2, doubled each time the resolution is halved (published: 64 at s = 64, 32 at s = 128).
    bottleneck: length of the bottleneck vector.
    features: output channels: 1 for depth, 3 for albedo (to which a tanh is applied).
    group_size: channels per group of the group norms (published: 4); must divide `width`.
  """

  resolution: int = 64
  width: int = 64
  bottleneck: int = 256
  features: int = 1
  group_size: int = 4

  @nn.compact
  def __call__(self, image: Float[Array, "b s s 3"]) -> Float[Array, "b s s f"]:
    levels = round(math.log2(self.resolution)) - 2
    widths = [self.width * 2**i for i in range(levels)]
    x, channels = image, 3
    for i, w in enumerate(widths):
      x = Conv(channels, w, 4, 2, 1, use_bias=False, name=f"down_{i}")(x)
      if i < levels - 1:
        x = self._norm(f"down_norm_{i}")(x)
      x, channels = nn.leaky_relu(x, _SLOPE), w
    x = nn.relu(Conv(channels, self.bottleneck, 4, use_bias=False, name="bottleneck")(x))
    x = nn.relu(InitialTransposedConv(channels, name="up_0")(x))
    x = nn.relu(Conv(channels, channels, 3, padding=1, use_bias=False, name="conv_0")(x))
    for i, w in enumerate(widths[-2::-1], 1):
      x = nn.relu(self._norm(f"up_norm_{i}")(StridedTransposedConv(w, name=f"up_{i}")(x)))
      x = nn.relu(self._norm(f"conv_norm_{i}")(Conv(w, w, 3, padding=1, use_bias=False, name=f"conv_{i}")(x)))
    x, w = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), self.width
    x = nn.relu(self._norm("head_norm_0")(Conv(w, w, 3, padding=1, use_bias=False, name="head_0")(x)))
    x = nn.relu(self._norm("head_norm_1")(Conv(w, w, 5, padding=2, use_bias=False, name="head_1")(x)))
    return Conv(w, self.features, 5, padding=2, use_bias=False, name="head_2")(x)

  @nn.nowrap
  def _norm(self, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=None, group_size=self.group_size, epsilon=1e-5, name=name)

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} for images of `resolution` x `resolution` pixels."""
    return init_lazily(self, key, (1, self.resolution, self.resolution, 3))


def depth_from_raw(
  raw: Float[Array, "b h w 1"], *, near: float, far: float, centre: bool = False
) -> Float[Array, "b h w"]:
  """Maps the output of a `MapNet` to depth along the optical axis: tanh, scaled to [near, far].

  With `centre` the mean of each map is subtracted first (published), which fixes the mean depth near the middle of the
  range: a single image does not determine the absolute distance.
  """
  raw = raw[..., 0]
  if centre:
    raw = raw - jnp.mean(raw, (-2, -1), keepdims=True)
  t = jnp.tanh(raw)
  return (1 - t) / 2 * near + (1 + t) / 2 * far


class InitialTransposedConv(nn.Module):
  """A transposed convolution of size 4 from 1 x 1 to 4 x 4 pixels, without bias, as a matrix product."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b 1 1 c"]) -> Float[Array, "b 4 4 o"]:
    kernel = self.param("kernel", _output_fan(self.features), (4, 4, x.shape[-1], self.features))
    # Kernels of transposed convolutions are stored as those of the equivalent correlation: rotated by 180 degrees.
    return jnp.einsum("bc,ijco->bijo", x[:, 0, 0], kernel[::-1, ::-1])


class StridedTransposedConv(nn.Module):
  """A transposed convolution of size 4 and stride 2 (PyTorch's padding 1, XLA's "SAME"), without bias.

  Every output pixel depends on 2 x 2 input pixels through one quarter of the kernel, so this is one matrix product
  whose columns are then interleaved. On a CPU the gradient of `lax.conv_transpose` takes eight times as long.
  """

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w o"]:
    b, h, w, c = x.shape
    kernel = self.param("kernel", _output_fan(self.features), (4, 4, c, self.features))
    # [row, row parity, column, column parity, ...] -> [row, column, in, row parity, column parity, out]
    quarters = kernel.reshape(2, 2, 2, 2, c, self.features).transpose(0, 2, 4, 1, 3, 5).reshape(4 * c, -1)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = jnp.concatenate([x[:, i : i + h + 1, j : j + w + 1] for i in (0, 1) for j in (0, 1)], -1)
    y = (neighbours @ quarters).reshape(b, h + 1, w + 1, 2, 2, self.features)
    rows = [jnp.stack([y[:, i : i + h, j : j + w, i, j] for j in (0, 1)], 3) for i in (0, 1)]
    return jnp.stack(rows, 2).reshape(b, 2 * h, 2 * w, self.features)


def _output_fan(features: int) -> Initializer:
  """PyTorch's initial distribution for transposed convolutions, whose fan is computed from the output channels."""
  return uniform(1 / math.sqrt(features * 16))
