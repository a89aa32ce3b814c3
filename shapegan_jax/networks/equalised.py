"""Layers with an equalised learning rate (Karras et al. 2018): standard normal weights, scaled when they are used.

A stored weight is N(0, 1) / rate and is used as weight * rate / sqrt(fan_in), a bias as bias * rate: Adam, whose steps
do not depend on a gradient's size, then moves all layers alike, and those of a small `rate` slowly.
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
  """N(0, deviation^2), whatever the fan."""

  def initializer(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return kaiming_normal(1.0, gain=deviation * math.sqrt(math.prod(shape[:-1])))(key, shape, dtype)

  return initializer


def activate(x: Float[Array, "*b c"], bias: Float[Array, " c"], clamp: float = 0.0) -> Float[Array, "*b c"]:
  """sqrt(2) * leaky ReLU of slope 0.2 of x + bias, clipped to +-`clamp` if that is not 0 (networks trained in fp16)."""
  return bounded(math.sqrt(2) * jax.nn.leaky_relu(add_bias(x, bias), 0.2), clamp)


def bounded(x: Float[Array, "*b"], clamp: float) -> Float[Array, "*b"]:
  """Clipped to +-`clamp`; 0: as it is."""
  return jnp.clip(x, -clamp, clamp) if clamp else x


class EqualLinear(nn.Module):
  """y = x @ kernel + bias, with the activation if `active`. The bias begins at `bias`."""

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
  """Correlation with zero padding; with bias and activation if `active`, else with neither.

  With `stride` 2 it has no padding, see `convolutions.correlate`.
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
      return bounded(y, self.clamp)
    return activate(y, self.param("bias", nn.initializers.zeros, (self.features,)), self.clamp)
