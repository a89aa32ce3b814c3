"""A trained StyleGAN2 as GAN2Shape asks it: styles, pictures, features of its discriminator, offsets of styles."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.networks.stylegan2 import Generator
from shapegan_jax.networks.stylegan2_discriminator import Discriminator
from shapegan_jax.types import Codes, Key, PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["generator", "discriminator"])
@dataclasses.dataclass(frozen=True)
class FrozenGan:
  """A trained StyleGAN2 that is only asked: pictures always carry the same noise. A pytree of its parameters."""

  generator: Generator
  discriminator: Discriminator
  params: PyTree  # mapping, synthesis, w_mean, noise, discriminator (where there is one)

  @classmethod
  def of(cls, model: Any) -> FrozenGan:
    """From a loaded `Model`.

    Raises:
      UserError: it is of another method, or holds no discriminator.
    """
    if not hasattr(model.method, "frozen"):
      raise UserError("the 2D GAN: this is a model of another method; train or convert a StyleGAN2")
    if "discriminator" not in model.params:
      raise UserError(
        "the 2D GAN: this model was exported without its discriminator, which pictures are compared by; convert a "
        "checkpoint that has one (rosinality: made with --disc)"
      )
    return model.method.frozen(model.params)

  @property
  def resolution(self) -> int:
    """Pixels a side of `image`."""
    return self.generator.synthesis.resolution

  @property
  def latent_size(self) -> int:
    """Length of a latent and of a style."""
    return self.generator.mapping.size

  def styles(self, latents: Array | Codes, *, truncation: float = 1.0) -> Float[Array, "b *n d"]:
    """Styles of latents (of `Codes`: those in them), drawn to their mean as `truncation` falls to 0."""
    w = latents.values[0] if isinstance(latents, Codes) else self._map(latents)
    mean = self.params["w_mean"].reshape((1,) * (w.ndim - 1) + (-1,))
    return mean + truncation * (w - mean)

  def sample(self, key: Key, n: int, truncation: float = 1.0) -> Float[Array, "n d"]:
    """Styles of the prior."""
    return self.styles(jax.random.normal(key, (n, self.latent_size)), truncation=truncation)

  def image(self, w: Float[Array, "b *n d"]) -> Float[Array, "b r r 3"]:
    """Pictures of styles [b, d] or [b, styles, d], clipped to [-1, 1], with the stored noise."""
    maps = self.params["noise"]
    noise = [maps[f"noise_{i}"][None] for i in range(len(maps))]
    return jnp.clip(self.generator.apply(self._variables, w, noise, method="synthesize"), -1.0, 1.0)

  def features(self, image: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    """What the discriminator's first four blocks make of pictures [-1, 1] of any size."""
    return tuple(self.discriminator.apply({"params": self.params["discriminator"]}, image, method="features"))

  def offset(self, o: Float[Array, "b d"], depth: int) -> Float[Array, "b d"]:
    """How far an offset `o` moves the style, where it enters the mapping network before its end.

    The mapping network is a list whose entry 0 is the normalisation and whose entry k its linear layer k; with n layers
    the offset is added before entry n - `depth` to what the latent 0 is there. So `depth` + 1 linear layers follow, or
    with `depth` = n everything: the counting is the published one. With `depth` = -1 nothing follows.
    """
    start = self.generator.mapping.layers - depth
    zero = jnp.zeros((1, self.latent_size))
    return self._map(o + self._map(zero, 0, start), start) - self._map(zero)

  @property
  def _variables(self) -> PyTree:
    return {"params": {name: self.params[name] for name in ("mapping", "synthesis")}}

  def _map(self, x: Array, start: int = 0, stop: int | None = None) -> Array:
    return self.generator.apply(self._variables, x, start, stop, method="map")
