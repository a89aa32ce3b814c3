"""GRAF's patch discriminator: strided convolutions with spectral normalisation (Schwarz et al. 2020, section 3.2).

Its input is a patch of K x K pixels; it receives neither the patch's scale nor its position in the image. Images are
NHWC in [-1, 1]. There are two variable collections: "params" (kernels) and "spectral" (the singular vectors u and v of
each kernel), which only `advance` changes.
"""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.networks.layers import Conv, uniform
from shapegan_jax.numerics import l2_normalize
from shapegan_jax.types import DiscriminatorOutput, Key, PyTree

# Channels of the feature maps of 4 x 4, 8 x 8, ... pixels.
_CHANNELS = {4: 512, 8: 256, 16: 128, 32: 64, 64: 32}
_INSTANCE_EPS = 1e-5


class SpectralConv(Conv):
  """A convolution whose kernel, as a matrix W [size * size * in, out], is divided by its largest singular value.

  That value is estimated as v^T W u (Miyato et al. 2018) from two stored unit vectors: `u` [out] and `v` [size,
  size, in]. The gradient flows through W, not through the vectors. A forward pass does not update the vectors, as in
  PyTorch's evaluation mode.
  """

  use_bias: bool = False

  def setup(self):
    super().setup()
    self.u = self.variable("spectral", "u", self._first_u)
    self.v = self.variable("spectral", "v", lambda: self._v_of(self.u.value))

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
    return self._convolve(x, self.kernel / self.spectral_norm())

  def spectral_norm(self) -> Float[Array, ""]:
    """v^T W u: the estimate of the kernel's largest singular value."""
    return jnp.sum(self.v.value * self._times(self.kernel, self.u.value))

  def advance(self) -> None:
    """One step of power iteration: v = W u / |W u|, u = W^T v / |W^T v|. Needs the collection "spectral" mutable."""
    kernel = jax.lax.stop_gradient(self.kernel)
    self.v.value = self._v_of(self.u.value)
    self.u.value = _unit(jnp.einsum("hwio,hwi->o", kernel, self.v.value, precision=jax.lax.Precision.HIGHEST))

  def _first_u(self) -> Array:
    return _unit(uniform(1.0)(self.make_rng("params"), (self.features,)))

  def _v_of(self, u: Array) -> Array:
    return _unit(self._times(jax.lax.stop_gradient(self.kernel), u))

  def _times(self, kernel: Array, u: Array) -> Array:
    return jnp.einsum("hwio,o->hwi", kernel, u, precision=jax.lax.Precision.HIGHEST)


class PatchDiscriminator(nn.Module):
  """4 x 4 convolutions of stride 2 with instance norm and leaky ReLU 0.2 down to 4 x 4, then one to the logit; no bias.

  `resolution` is that of the patch, a power of two from 8 to 128 (published: 32, 64 and 128). The first layer has its
  norm, which removes the patch's mean colours, only up to 32 pixels (as published). `width_multiplier` makes narrow
  versions.
  """

  resolution: int = 32
  width_multiplier: float = 1.0

  def setup(self):
    if self.resolution not in [2 * size for size in _CHANNELS]:
      sizes = ", ".join(str(2 * size) for size in _CHANNELS)
      raise UserError(f"the patch discriminator cannot read patches of {self.resolution} pixels: choose one of {sizes}")
    sizes = [size for size in sorted(_CHANNELS, reverse=True) if 2 * size <= self.resolution]
    widths = [3] + [max(1, round(_CHANNELS[size] * self.width_multiplier)) for size in sizes]
    strided = [SpectralConv(i, o, 4, stride=2, padding=1) for i, o in itertools.pairwise(widths)]
    self.layers = [*strided, SpectralConv(widths[-1], 1, 4)]

  def __call__(self, image: Float[Array, "b h w 3"]) -> DiscriminatorOutput:
    """Patches in [-1, 1] -> logits [b]; the latent and the pose are None."""
    if image.shape[1:3] != (self.resolution, self.resolution):
      raise UserError(
        f"the patch discriminator reads patches of {self.resolution}x{self.resolution} pixels, not "
        f"{image.shape[1]}x{image.shape[2]}: make config.patches.size its resolution"
      )
    x = image
    for index, layer in enumerate(self.layers[:-1]):
      x = layer(x)
      if index > 0 or self.resolution <= 32:
        x = instance_norm(x)
      x = jax.nn.leaky_relu(x, 0.2)
    return DiscriminatorOutput(logit=self.layers[-1](x)[:, 0, 0, 0])

  def advance(self) -> None:
    """One step of power iteration in every layer; call it once per update of the parameters.

    Call as `_, changed = discriminator.apply(variables, method="advance", mutable=["spectral"])`.
    """
    for layer in self.layers:
      layer.advance()

  def create_parameters(self) -> None:
    """Makes Linen create the variables of all layers (through `init`)."""
    for layer in self.layers:
      layer.create_parameters()

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ..., "spectral": ...}."""
    return self.init(key, method="create_parameters")


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  """Normalises each channel of each image to mean 0 and variance 1 over its pixels (Ulyanov et al. 2016)."""
  centred = x - jnp.mean(x, (1, 2), keepdims=True)
  return centred * jax.lax.rsqrt(jnp.mean(centred**2, (1, 2), keepdims=True) + _INSTANCE_EPS)


def _unit(vector: Array) -> Array:
  return l2_normalize(vector.reshape(-1), eps=1e-12).reshape(vector.shape)
