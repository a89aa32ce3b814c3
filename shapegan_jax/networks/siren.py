"""The FiLM-SIREN field: sine layers whose frequencies and phases are set per instance (Chan et al. 2021, eq. 2-5).

Notation: H = `width`, L = `depth`. One call evaluates one instance: its codes `frequencies` and `phases` are raw
vectors of (L + 1) H numbers, H per trunk layer and H for the colour layer; use `jax.vmap` for batches of instances.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.layers import Linear, add_bias, init_lazily, uniform
from shapegan_jax.numerics import fast_sin
from shapegan_jax.types import Key, PyTree

Dot = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class SphereStart:
  """Adds a soft sphere to the density: raw = gain * network + sharpness * (radius - |x|), in warped coordinates.

  The shape is then convex from the first step, so that unposed training does not end in hollow faces by chance. This is
  our addition; the published models start from the network alone (`sphere_start=None`).
  """

  radius: float = 0.75
  sharpness: float = 80.0
  gain: float = 20.0

  def __call__(self, raw: Float[Array, "*p"], warped: Float[Array, "*p 3"]) -> Float[Array, "*p"]:
    """The raw density of the network at warped points, with the sphere added."""
    radius = jnp.sqrt(jnp.sum(warped * warped, -1) + 1e-6)  # its derivative at 0 is 0, not NaN
    return self.gain * raw + self.sharpness * (self.radius - radius)


class FilmSiren(nn.Module):
  """Position -> raw density (or occupancy logit) and features -> colour.

  Layer i computes sin(f (W x + b) + p) with f = frequency_scale * frequencies[i] + frequency_shift, p = phases[i].
  Points are multiplied by `warp_scale` first (the published face volume of side 0.24 becomes [-1, 1]). The inputs of
  the colour layer are (view direction, features, light), as far as it is conditioned on them; the density depends on
  neither view nor light.

  `sine="fast"` has an absolute error of 2e-5 and takes a third of the time on a CPU. `compute_dtype="bfloat16"` rounds
  the operands of the H x H products (also in their derivatives) and accumulates in float32; the first layer, the
  modulation and the sine stay in float32.
  """

  width: int = 256
  depth: int = 8
  view_condition: bool = True
  light_condition: bool = False
  frequency_scale: float = 15.0
  frequency_shift: float = 30.0
  warp_scale: float = 2 / 0.24
  init_constant: float = 25.0
  sine: Literal["fast", "exact"] = "fast"
  sphere_start: SphereStart | None = None
  compute_dtype: Literal["float32", "bfloat16"] = "float32"

  @property
  def code_size(self) -> int:
    """The length of `frequencies` and of `phases`; a `MappingNetwork` for this field has `out = 2 * code_size`."""
    return (self.depth + 1) * self.width

  def setup(self):
    def linear(n: int, features: int, bound: float | None = None) -> Linear:
      return Linear(n, features, kernel_init=uniform(bound or math.sqrt(6 / n) / self.init_constant))

    self.trunk = [linear(3, self.width, 1 / 3)] + [linear(self.width, self.width) for _ in range(self.depth - 1)]
    self.density_head = linear(self.width, 1)
    inputs = 3 * self.view_condition + self.width + 4 * self.light_condition
    self.color_film = linear(inputs, self.width)
    self.color_head = linear(self.width, 3)

  def density(
    self, points: Float[Array, "*p 3"], frequencies: Float[Array, " n"], phases: Float[Array, " n"]
  ) -> tuple[Float[Array, "*p"], Float[Array, "*p h"]]:
    """World positions -> (raw density before any activation, features for `color`)."""
    warped = points * self.warp_scale
    x = warped
    for index, layer in enumerate(self.trunk):
      # Rounding a coordinate shifts the phases of all sines, so the first product is exact on every device.
      dot = _exact_dot if index == 0 else self._dot
      x = self._sin(self._film(dot, x, layer.kernel, layer.bias, frequencies, phases, index))
    raw = self.density_head(x)[..., 0]
    if self.sphere_start is not None:
      raw = self.sphere_start(raw, warped)
    return raw, x

  def color(
    self,
    features: Float[Array, "*r s h"],
    viewdirs: Float[Array, "*r 3"],
    frequencies: Float[Array, " n"],
    phases: Float[Array, " n"],
    light: Float[Array, "4"] | None = None,
  ) -> Float[Array, "*r s 3"]:
    """Features of points, unit world-frame view directions of their rays and a light code -> rgb (albedo) in [0, 1]."""
    kernel, constant = self.color_film.kernel, self.color_film.bias
    first = 3 * self.view_condition
    if self.light_condition:
      if light is None:
        raise ValueError("a FilmSiren with light_condition=True needs a light code")
      constant = constant + _exact_dot(light, kernel[first + self.width :])
    # Terms that are constant along a ray are computed once per ray; the published code repeats them for every sample.
    if self.view_condition:
      constant = add_bias(_exact_dot(viewdirs, kernel[:3]), constant)[..., None, :]
    kernel = kernel[first : first + self.width]
    x = self._film(self._dot, features, kernel, constant, frequencies, phases, self.depth)
    return jax.nn.sigmoid(self.color_head(self._sin(x)))

  def __call__(
    self,
    points: Float[Array, "*r s 3"],
    viewdirs: Float[Array, "*r 3"],
    frequencies: Float[Array, " n"],
    phases: Float[Array, " n"],
    light: Float[Array, "4"] | None = None,
  ) -> tuple[Float[Array, "*r s"], Float[Array, "*r s 3"]]:
    """(raw, rgb) of points on rays: `density`, then `color`."""
    raw, features = self.density(points, frequencies, phases)
    return raw, self.color(features, viewdirs, frequencies, phases, light)

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} of the trunk and of the density and colour heads."""
    codes = (self.code_size,)
    return init_lazily(self, key, (1, 1, 3), (1, 3), codes, codes, (4,))

  def _film(
    self, dot: Dot, x: Array, kernel: Array, constant: Array, frequencies: Array, phases: Array, index: int
  ) -> Array:
    """f (x kernel + constant) + p, as x (f kernel) + (f constant + p) or f (x kernel) + (f constant + p).

    Folding f into the kernel costs a pass over the weights per instance and saves one over the points; but a kernel
    shared by all instances turns many small matrix products into a large one. Which is faster depends on the rows per
    instance (measured on a CPU: a quarter either way).
    """
    part = slice(index * self.width, (index + 1) * self.width)
    frequency = self.frequency_scale * frequencies[part] + self.frequency_shift
    phase = _align(frequency, constant.ndim) * constant + _align(phases[part], constant.ndim)
    rows = x.size // x.shape[-1]
    if rows >= 2 * self.width:
      product = dot(x, kernel * frequency[None])
    else:
      product = dot(x, kernel) * _align(frequency, x.ndim)
    return product + (_align(phase, x.ndim) if phase.ndim == 1 else phase)

  def _dot(self, x: Array, kernel: Array) -> Array:
    return x @ kernel if self.compute_dtype == "float32" else _bfloat16_dot(x, kernel)

  def _sin(self, x: Array) -> Array:
    return fast_sin(x) if self.sine == "fast" else jnp.sin(x)


def _align(vector: Array, ndim: int) -> Array:
  """[c] as [1, ..., 1, c] of `ndim` axes."""
  return vector.reshape((1,) * (ndim - 1) + (-1,))


def _exact_dot(x: Array, kernel: Array) -> Array:
  return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def _bfloat16_dot(x: Array, kernel: Array) -> Array:
  """x @ kernel with bfloat16 operands and a float32 sum, as are both products of its derivative, to any order."""
  return jnp.matmul(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _bfloat16_dot_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _bfloat16_dot(x, kernel), (x, kernel)


def _bfloat16_dot_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
  x, kernel = saved
  rows, columns = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
  return _bfloat16_dot(cotangent, kernel.T), _bfloat16_dot(rows.T, columns)


_bfloat16_dot.defvjp(_bfloat16_dot_forward, _bfloat16_dot_backward)
