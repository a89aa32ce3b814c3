"""The surface-tracking network: codes and pose -> a map of the surface's distance (Pan et al. 2021, ShadeGAN, 3.3)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.layers import Conv, Linear, init_lazily, uniform
from shapegan_jax.types import Key, PyTree


def surface_inputs(
  codes: tuple[Float[Array, "b _"], ...], yaw: Float[Array, " b"], pitch: Float[Array, " b"]
) -> tuple[Float[Array, "b m"], Float[Array, "b 2"]]:
  """The inputs (codes, pose) of `SurfaceNet`: raw codes / 10, and 10 * (polar angles - pi/2) = -10 * (pitch, yaw).

  `codes` are (frequencies, phases). Tracking must not influence the field, so no gradient flows to codes or pose.
  """
  flat = jnp.concatenate(codes, -1) / 10
  return jax.lax.stop_gradient((flat, -10 * jnp.stack([pitch, yaw], -1)))


def relative_to_distance(
  relative: Float[Array, "b h w"], *, near: float, far: float, resolution: int
) -> Float[Array, "b r r"]:
  """Relative map in [0, 1] -> distance along the ray at `resolution`: averaged when downsampling, else bilinear."""
  b, size, _ = relative.shape
  if resolution < size and size % resolution == 0:
    factor = size // resolution
    relative = relative.reshape(b, resolution, factor, resolution, factor).mean((2, 4))
  elif resolution != size:
    relative = jax.image.resize(relative, (b, resolution, resolution), "bilinear")
  return near + relative * (far - near)


class SurfaceNet(nn.Module):
  """A convolutional decoder from 1 x 1 to `resolution` pixels (published: width 256, 128 x 128 pixels).

  A smaller `resolution` (a power of two, at least 16) has fewer upsampling blocks. `width` must be a multiple of
  `resolution`: every block halves it and normalises it in groups of eight channels.
  """

  code_size: int
  width: int = 256
  resolution: int = 128

  @nn.compact
  def __call__(self, codes: Float[Array, "b n"], pose: Float[Array, "b 2"]) -> Float[Array, "b h w"]:
    """Scaled codes and pose (`surface_inputs`) -> distance relative to [near, far], in [0, 1]."""
    w = self.width
    x = jnp.concatenate([Linear(self.code_size, w, name="linear")(codes), pose], -1)[:, None, None]
    x = nn.relu(Conv(w + 2, w, 1, use_bias=False, name="conv_0")(x))
    x = nn.relu(_transposed(w, 1, "VALID", "up_0")(x))
    x = nn.relu(Conv(w, w, 3, padding=1, use_bias=False, name="conv_1")(x))
    x = _transposed(w, 2, "SAME", "up_1")(x)
    x = nn.relu(_group_norm(w // 4, "norm_0")(x))
    x = Conv(w, w, 3, padding=1, use_bias=False, name="conv_2")(x)
    for index in range(round(math.log2(self.resolution / 8))):
      w //= 2
      x = UpBlock(w, name=f"block_{index}")(x)
    x = nn.relu(_group_norm(4, "norm_1")(x))
    # The published network has two outputs and uses the first.
    return nn.sigmoid(Conv(w, 2, 5, padding=2, use_bias=False, name="conv_3")(x)[..., 0])

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} for codes of length `code_size`."""
    return init_lazily(self, key, (1, self.code_size), (1, 2))


class UpBlock(nn.Module):
  """Pre-activation residual block that doubles the resolution before the first convolution."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w o"]:
    channels = x.shape[-1]
    skip = _double(x)
    y = _double(nn.relu(_group_norm(channels // 8, "norm_0")(x)))
    y = Conv(channels, self.features, 3, padding=1, use_bias=False, name="conv_0")(y)
    y = nn.relu(_group_norm(self.features // 8, "norm_1")(y))
    y = Conv(self.features, self.features, 3, padding=1, use_bias=False, name="conv_1")(y)
    if channels != self.features:
      skip = Conv(channels, self.features, 1, name="skip")(skip)
    return skip + y


def _double(x: Array) -> Array:
  return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def _group_norm(groups: int, name: str) -> nn.GroupNorm:
  return nn.GroupNorm(groups, epsilon=1e-5, name=name)


def _transposed(features: int, stride: int, padding: str, name: str) -> nn.ConvTranspose:
  # The published initialisation computes the fan of a transposed convolution from its output channels.
  bound = 1 / math.sqrt(features * 16)
  return nn.ConvTranspose(
    features, (4, 4), (stride, stride), padding, use_bias=False, kernel_init=uniform(bound), name=name
  )
