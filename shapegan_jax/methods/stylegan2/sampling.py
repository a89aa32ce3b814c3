"""Random styles, noise maps and images of a StyleGAN2 in training."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax import parallel
from shapegan_jax.networks.stylegan2 import Generator
from shapegan_jax.objectives.path_length import path_lengths
from shapegan_jax.rng import stream
from shapegan_jax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class StyleSampler:
  """Samples a batch, split over the devices. `mixing` is the probability of style mixing."""

  generator: Generator
  mixing: float = 0.0

  def styles(self, gen_params: PyTree, key: Key, n: int) -> Float[Array, "n s d"]:
    """Styles of `n` latents; with mixing, a second latent's from a random layer on."""
    layers = self.generator.synthesis.styles
    latents, coins, cuts = parallel.over_batch(
      (
        jax.random.normal(stream(key, "latents"), (n, 2, self.generator.mapping.size)),
        jax.random.uniform(stream(key, "mixing"), (n,)),
        jax.random.randint(stream(key, "cuts"), (n,), 1, layers),
      )
    )
    w = self.generator.apply({"params": gen_params}, latents, method="map")
    cuts = jnp.where(coins < self.mixing, cuts, layers)
    first = jnp.arange(layers)[None] < cuts[:, None]
    return jnp.where(first[..., None], w[:, :1], w[:, 1:])

  def noise(self, key: Key, n: int) -> list[Float[Array, "n _ _"]]:
    """Standard normal noise maps for every convolution, slices of one vector per image."""
    sizes = self.generator.synthesis.noise_sizes
    rows = parallel.over_batch(jax.random.normal(stream(key, "noise"), (n, sum(size**2 for size in sizes))))
    ends = itertools.accumulate(size**2 for size in sizes)
    return [rows[:, end - size**2 : end].reshape(n, size, size) for size, end in zip(sizes, ends, strict=True)]

  def images(self, gen_params: PyTree, key: Key, n: int) -> tuple[Float[Array, "n r r 3"], Float[Array, "n s d"]]:
    """(images, their styles) for training: with style mixing and fresh noise."""
    w, noise = self.styles(gen_params, key, n), self.noise(key, n)
    return self.generator.apply({"params": gen_params}, w, noise, method="synthesize"), w

  def path_lengths(self, gen_params: PyTree, key: Key, n: int) -> Float[Array, " n"]:
    """Path lengths (`objectives.path_length`) of `n` images."""
    w, noise = self.styles(gen_params, key, n), self.noise(key, n)
    side = self.generator.synthesis.resolution
    directions = parallel.over_batch(jax.random.normal(stream(key, "directions"), (n, side, side, 3)))
    return path_lengths(
      lambda w: self.generator.apply({"params": gen_params}, w, noise, method="synthesize"), w, directions
    )
