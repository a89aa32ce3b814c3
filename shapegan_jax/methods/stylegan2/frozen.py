"""A trained StyleGAN2 as GAN2Shape uses it: styles, images, discriminator features, and offsets of styles."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.networks.stylegan2 import Generator
from shapegan_jax.networks.stylegan2_discriminator import Discriminator
from shapegan_jax.types import Codes, Key, PyTree


@runtime_checkable
class FrozenGenerator(Protocol):
  """What GAN2Shape needs of a frozen 2D generator: `FrozenGan`, or a generator of known shapes in tests."""

  @property
  def latent_size(self) -> int:
    """Length of a latent."""

  def sample(self, key: Key, n: int, truncation: float = 1.0) -> Float[Array, "n d"]:
    """Random latents."""

  def image(self, w: Float[Array, "b d"]) -> Float[Array, "b r r 3"]:
    """Images of latents, in [-1, 1]."""

  def features(self, image: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    """Feature maps by which images are compared."""

  def offset(self, o: Float[Array, "b d"], depth: int) -> Float[Array, "b d"]:
    """The offset of a latent from the encoder's output."""


@runtime_checkable
class TrainedModel(Protocol):
  """The part of `model.Model` that is read here."""

  method: Any
  params: PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["generator", "discriminator"])
@dataclasses.dataclass(frozen=True)
class FrozenGan:
  """A trained StyleGAN2 with fixed noise maps. A pytree of its parameters."""

  generator: Generator
  discriminator: Discriminator
  params: PyTree  # mapping, synthesis, w_mean, noise, discriminator (if it was exported)

  @classmethod
  def of(cls, model: TrainedModel) -> FrozenGan:
    """From a loaded `Model`.

    Raises:
      UserError: it is not a StyleGAN2, or holds no discriminator.
    """
    if not hasattr(model.method, "frozen"):
      raise UserError("the 2D GAN: this is a model of another method; train or convert a StyleGAN2")
    if "discriminator" not in model.params:
      raise UserError(
        "the 2D GAN: this model was exported without its discriminator, whose features are needed to compare images; "
        "convert a checkpoint that has one (rosinality: made with --disc)"
      )
    return model.method.frozen(model.params)

  @property
  def resolution(self) -> int:
    """Height and width of `image` in pixels."""
    return self.generator.synthesis.resolution

  @property
  def latent_size(self) -> int:
    """Length of a latent and of a style."""
    return self.generator.mapping.size

  def styles(self, latents: Array | Codes, *, truncation: float = 1.0) -> Float[Array, "b *n d"]:
    """Styles of latents (or the styles in `Codes`), pulled towards the mean style as `truncation` falls to 0."""
    w = latents.values[0] if isinstance(latents, Codes) else self._map(latents)
    mean = self.params["w_mean"].reshape((1,) * (w.ndim - 1) + (-1,))
    return mean + truncation * (w - mean)

  def sample(self, key: Key, n: int, truncation: float = 1.0) -> Float[Array, "n d"]:
    """Random styles."""
    return self.styles(jax.random.normal(key, (n, self.latent_size)), truncation=truncation)

  def image(self, w: Float[Array, "b *n d"]) -> Float[Array, "b r r 3"]:
    """Images of styles [b, d] or [b, styles, d], clipped to [-1, 1], with the stored noise."""
    maps = self.params["noise"]
    noise = [maps[f"noise_{i}"][None] for i in range(len(maps))]
    return jnp.clip(self.generator.apply(self._variables, w, noise, method="synthesize"), -1.0, 1.0)

  def features(self, image: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    """Outputs of the discriminator's first four blocks for images in [-1, 1] of any size."""
    return tuple(self.discriminator.apply({"params": self.params["discriminator"]}, image, method="features"))

  def offset(self, o: Float[Array, "b d"], depth: int) -> Float[Array, "b d"]:
    """The offset of the style when `o` is added to an intermediate activation of the mapping network.

    The mapping network is a list: entry 0 is the normalisation, entry k its linear layer k. With n layers, `o` is added
    before entry n - `depth` to the activation of the latent 0 there. So `depth` + 1 linear layers follow, or with
    `depth` = n the whole network; this is how the authors count. With `depth` = -1 nothing follows.
    """
    start = self.generator.mapping.layers - depth
    zero = jnp.zeros((1, self.latent_size))
    return self._map(o + self._map(zero, 0, start), start) - self._map(zero)

  @property
  def _variables(self) -> PyTree:
    return {"params": {name: self.params[name] for name in ("mapping", "synthesis")}}

  def _map(self, x: Array, start: int = 0, stop: int | None = None) -> Array:
    return self.generator.apply(self._variables, x, start, stop, method="map")
