"""GRAF's conditional radiance field: an MLP on encoded positions and codes (Schwarz et al. 2020, section 3.2).

Notation: H = `width`, L = `depth`. One call evaluates one instance: its `shape` code affects the density (and, through
the features, the colour), its `appearance` code only the colour; use `jax.vmap` for batches of instances. Layers that
the paper applies to concatenated inputs are computed in parts: the contribution of the codes is the same for the whole
instance and that of the view direction for the whole ray, so neither is computed for every point.
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.networks.layers import Linear, add_bias, init_lazily
from shapegan_jax.networks.siren import SphereStart
from shapegan_jax.numerics import fast_cos, fast_sin
from shapegan_jax.types import Key, PyTree


class ConditionalNerf(nn.Module):
  """Position, shape code -> raw density and features; with view direction and appearance code -> colour.

  Trunk layer i is relu(W x + b). The input of the first layer is (encoded position, shape code); layer `skip` + 1 reads
  these again, followed by the features. Density is linear in the features. Colour: a linear layer of the features
  without activation, then (its output, encoded direction, appearance code) -> H/2, relu -> 3, sigmoid.

  Points are multiplied by `warp_scale` before they are encoded with `position_bands` octaves; directions have
  `direction_bands`. `z_up` converts points to the authors' frame, in which a camera at our `yaw` and `pitch` has
  azimuth `front_deg` + yaw and elevation pitch. `sine="fast"` is `numerics.fast_sin`, accurate as long as warped points
  times 2^bands stay below 100.
  """

  width: int = 256
  depth: int = 8
  skip: int = 4
  position_bands: int = 10
  direction_bands: int = 4
  shape_dim: int = 128
  appearance_dim: int = 128
  view_condition: bool = True
  warp_scale: float = 1.0
  z_up: bool = False
  front_deg: float = 0.0
  sine: Literal["fast", "exact"] = "exact"
  sphere_start: SphereStart | None = None

  def setup(self):
    given = _encoded_size(self.position_bands) + self.shape_dim
    inputs = [given] + [self.width + given * (i == self.skip + 1) for i in range(1, self.depth)]
    self.trunk = [Linear(n, self.width) for n in inputs]
    self.density_head = Linear(self.width, 1)
    self.color_features = Linear(self.width, self.width)
    directions = _encoded_size(self.direction_bands) if self.view_condition else 0
    self.color_hidden = Linear(self.width + directions + self.appearance_dim, self.width // 2)
    self.color_head = Linear(self.width // 2, 3)

  def density(
    self, points: Float[Array, "*p 3"], shape: Float[Array, " n"]
  ) -> tuple[Float[Array, "*p"], Float[Array, "*p h"]]:
    """World positions -> (raw density before any activation, features for `color`)."""
    warped = points * self.warp_scale
    encoded = self._encode(self._to_authors(warped), self.position_bands)
    n = encoded.shape[-1]
    x = encoded
    for index, layer in enumerate(self.trunk):
      if index in (0, self.skip + 1):
        constant = shape @ layer.kernel[n : n + shape.shape[0]] + layer.bias
        product = encoded @ layer.kernel[:n]
        if index > 0:
          product = product + x @ layer.kernel[n + shape.shape[0] :]
        x = jax.nn.relu(add_bias(product, constant))
      else:
        x = jax.nn.relu(layer(x))
    raw = self.density_head(x)[..., 0]
    if self.sphere_start is not None:
      raw = self.sphere_start(raw, warped)
    return raw, x

  def color(
    self, features: Float[Array, "*r s h"], viewdirs: Float[Array, "*r 3"], appearance: Float[Array, " n"]
  ) -> Float[Array, "*r s 3"]:
    """Features of points, unit world-frame view directions of their rays, appearance code -> rgb in [0, 1]."""
    kernel, first = self.color_hidden.kernel, self.color_features
    own, last = kernel[: self.width], kernel.shape[0] - self.appearance_dim
    # There is no activation between the two linear layers, so they are computed as one, with the kernels' product.
    constant = appearance @ kernel[last:] + first.bias @ own + self.color_hidden.bias
    if self.view_condition:
      encoded = self._encode(self._to_authors(viewdirs), self.direction_bands)
      constant = add_bias(encoded @ kernel[self.width : last], constant)[..., None, :]
    product = features @ (first.kernel @ own)
    x = add_bias(product, constant) if constant.ndim == 1 else product + constant
    return jax.nn.sigmoid(self.color_head(jax.nn.relu(x)))

  def __call__(
    self,
    points: Float[Array, "*r s 3"],
    viewdirs: Float[Array, "*r 3"],
    shape: Float[Array, " n"],
    appearance: Float[Array, " m"],
  ) -> tuple[Float[Array, "*r s"], Float[Array, "*r s 3"]]:
    """(raw, rgb) of points on rays: `density`, then `color`."""
    raw, features = self.density(points, shape)
    return raw, self.color(features, viewdirs, appearance)

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...} of the trunk and of the density and colour heads."""
    return init_lazily(self, key, (1, 1, 3), (1, 3), (self.shape_dim,), (self.appearance_dim,))

  def _to_authors(self, vectors: Array) -> Array:
    """Our (x, y, z) as the authors' (z, x, y), rotated about their vertical axis by `front_deg`."""
    if not self.z_up:
      return vectors
    x, y, z = (vectors[..., i] for i in range(3))
    cos, sin = math.cos(math.radians(self.front_deg)), math.sin(math.radians(self.front_deg))
    return jnp.stack([cos * z - sin * x, sin * z + cos * x, y], -1)

  def _encode(self, vectors: Array, bands: int) -> Array:
    waves = (fast_sin, fast_cos) if self.sine == "fast" else (jnp.sin, jnp.cos)
    return encode(vectors, bands, waves=waves)


def encode(vectors: Float[Array, "*p 3"], bands: int, *, waves: tuple = (jnp.sin, jnp.cos)) -> Float[Array, "*p n"]:
  """Positional encoding (v, sin v, cos v, sin 2v, ... cos 2^(bands-1) v), without a factor of pi, as in NeRF's code."""
  octaves = (2.0 ** jnp.arange(bands)).reshape((1,) * (vectors.ndim - 1) + (bands, 1))
  angles = vectors[..., None, :] * octaves
  sine, cosine = waves
  pairs = jnp.stack([sine(angles), cosine(angles)], -2)
  return jnp.concatenate([vectors, pairs.reshape(*vectors.shape[:-1], 6 * bands)], -1)


def _encoded_size(bands: int) -> int:
  return 3 + 6 * bands
