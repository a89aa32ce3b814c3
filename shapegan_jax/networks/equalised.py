"""Layers with an equalised learning rate (Karras et al. 2018): standard normal weights that are scaled at run time.

A stored weight is N(0, 1) / rate and is used as weight * rate / sqrt(fan_in), a bias as bias * rate. Since Adam's steps
do not depend on the scale of a gradient, all layers then learn at the same speed, and those with a small `rate` slower.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.convolutions import correlate
from shapegan_jax.networks.layers import Initializer, add_bias, kaiming_normal
from shapegan_jax.types import Key


def standard_normal(deviation: float = 1.0) -> Initializer:
  """N(0, deviation^2), independent of the fan."""

  def initializer(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return kaiming_normal(1.0, gain=deviation * math.sqrt(math.prod(shape[:-1])))(key, shape, dtype)

  return initializer


def activate(x: Float[Array, "*b c"], bias: Float[Array, " c"], clamp: float = 0.0) -> Float[Array, "*b c"]:
  """sqrt(2) * leaky ReLU (slope 0.2) of x + bias, clipped to +-`clamp` if that is not 0 (networks trained in fp16)."""
  return clamped(math.sqrt(2) * jax.nn.leaky_relu(add_bias(x, bias), 0.2), clamp)


def clamped(x: Float[Array, "*b"], clamp: float) -> Float[Array, "*b"]:
  """x clipped to +-`clamp`, or unchanged if that is 0."""
  return jnp.clip(x, -clamp, clamp) if clamp else x


class EqualLinear(nn.Module):
  """y = x @ kernel + bias, followed by `activate` if `active`. The initial bias is `bias`."""

  in_features: int
  features: int
  rate: float = 1.0
  bias: float = 0.0
  active: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    kernel = self.param("kernel", standard_normal(1 / self.rate), (self.in_features, self.features))
    bias = self.rate * self.param("bias", nn.initializers.constant(self.bias), (self.features,))
    y = x @ (kernel * (self.rate / math.sqrt(self.in_features)))
    return activate(y, bias) if self.active else add_bias(y, bias)


class EqualConv(nn.Module):
  """Correlation with zero padding; with bias and activation if `active`, otherwise with neither.

  With `stride` 2 there is no padding (see `convolutions.correlate`).
  """

  in_features: int
  features: int
  size: int
  stride: int = 1
  active: bool = True
  clamp: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
    shape = (self.size, self.size, self.in_features, self.features)
    kernel = self.param("kernel", standard_normal(), shape) / math.sqrt(math.prod(shape[:-1]))
    y = correlate(x, kernel, self.stride)
    if not self.active:
      return clamped(y, self.clamp)
    return activate(y, self.param("bias", nn.initializers.zeros, (self.features,)), self.clamp)
