"""Linear layers and convolutions with the initial distributions of the published methods.

`kernel` is [in, out] or [height, width, in, out] (NHWC). By default, kernel and bias are initialised uniformly in
+-1/sqrt(fan_in): PyTorch's default, on which the methods' results depend.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from shapegan_jax.networks.convolutions import correlate, downsampling_correlate
from shapegan_jax.types import Key, PyTree

Initializer = Callable[..., Array]


def uniform(bound: float | None = None) -> Initializer:
  """U(-bound, bound); without a bound U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

  def initializer(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    limit = 1 / math.sqrt(math.prod(shape[:-1])) if bound is None else bound
    return _draw(_uniform_between, key, limit, shape).astype(dtype)

  return initializer


def kaiming_normal(negative_slope: float = 0.2, gain: float = 1.0) -> Initializer:
  """gain * N(0, 2 / ((1 + a^2) fan_in)) for a leaky ReLU of slope a (He et al. 2015, eq. 15)."""

  def initializer(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    deviation = gain * math.sqrt(2 / ((1 + negative_slope**2) * math.prod(shape[:-1])))
    return _draw(_normal_of, key, deviation, shape).astype(dtype)

  return initializer


@functools.partial(jax.jit, static_argnums=2)
def _uniform_between(key: Key, limit: float | Array, length: int) -> Array:
  return limit * (2 * jax.random.uniform(key, (length,)) - 1)


@functools.partial(jax.jit, static_argnums=2)
def _normal_of(key: Key, deviation: float | Array, length: int) -> Array:
  return deviation * jax.random.normal(key, (length,))


def _draw(sampler: Callable[..., Array], key: Key, scale: float, shape: tuple[int, ...]) -> Array:
  """The first numbers of a longer draw. Compiling a random number generator takes most of a second on a CPU; rounding
  lengths up to powers of four needs few of them, and numpy slices concrete arrays without compiling anything."""
  count = math.prod(shape)
  numbers = sampler(key, scale, 4 ** math.ceil(math.log(max(count, 2), 4) - 1e-9))
  if isinstance(numbers, jax.core.Tracer):
    return numbers[:count].reshape(shape)
  return jnp.asarray(np.asarray(numbers)[:count].reshape(shape))


def init_lazily(module: nn.Module, key: Key, *shapes: tuple[int, ...]) -> PyTree:
  """The variables of `module.init(key, *inputs)` for float32 inputs of these shapes, without computing the outputs."""
  inputs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
  return jax.tree.map(jnp.asarray, module.lazy_init(key, *inputs))


def add_bias(x: Float[Array, "*b c"], bias: Float[Array, " c"]) -> Float[Array, "*b c"]:
  """x + bias along the last axis, without relying on rank promotion."""
  return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class Linear(nn.Module):
  """y = x @ kernel + bias. `kernel` and `bias` are attributes, so that parents can fold a modulation into them."""

  in_features: int
  features: int
  kernel_init: Initializer = uniform()

  def setup(self):
    self.kernel = self.param("kernel", self.kernel_init, (self.in_features, self.features))
    self.bias = self.param("bias", uniform(1 / math.sqrt(self.in_features)), (self.features,))

  def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    return add_bias(x @ self.kernel, self.bias)


def pixel_coordinates(height: int, width: int) -> Float[Array, "1 h w 2"]:
  """Row and column of every pixel, each from -1 to 1 inclusive (Liu et al. 2018, CoordConv, without the radius)."""
  rows, columns = jnp.meshgrid(jnp.linspace(-1.0, 1.0, height), jnp.linspace(-1.0, 1.0, width), indexing="ij")
  return jnp.stack([rows, columns], -1)[None]


class Conv(nn.Module):
  """2D cross-correlation with zero padding. With `coord`, each pixel's row and column are two additional last channels.

  The coordinates are the same for every image, so they are convolved once per batch and the result is added: equal to
  the published concatenation, without its copy of the activations.
  """

  in_features: int
  features: int
  size: int
  stride: int = 1
  padding: int = 0
  use_bias: bool = True
  coord: bool = False
  kernel_init: Initializer = uniform()

  def setup(self):
    channels = self.in_features + 2 * self.coord
    self.kernel = self.param("kernel", self.kernel_init, (self.size, self.size, channels, self.features))
    if self.use_bias:
      self.bias = self.param("bias", uniform(1 / math.sqrt(channels * self.size**2)), (self.features,))

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    y = self._convolve(x, self.kernel[:, :, : self.in_features])
    if self.coord:
      y = y + self._convolve(pixel_coordinates(*x.shape[1:3]), self.kernel[:, :, self.in_features :])
    return add_bias(y, self.bias) if self.use_bias else y

  def create_parameters(self) -> None:
    """Makes Linen create the parameters without computing anything (through `init`, which runs `setup`)."""

  def _convolve(self, x: Array, kernel: Array) -> Array:
    (b, h, w, _), pad = x.shape, self.padding
    # The common cases, in forms whose second derivatives are fast: R1 needs them at every step.
    if self.size == 1 and pad == 0:
      return x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
    if (h, w, pad) == (self.size, self.size, 0):
      return (x.reshape(b, -1) @ kernel.reshape(-1, self.features))[:, None, None]
    if (self.stride, pad) == (1, self.size // 2) and self.size % 2:
      return correlate(x, kernel)
    if (self.size, self.stride, pad, h % 2, w % 2) == (3, 2, 1, 0, 0):
      return downsampling_correlate(jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0))), kernel)
    return jax.lax.conv_general_dilated(
      x, kernel, (self.stride,) * 2, ((pad,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
