"""The mapping network: latents -> frequencies and phases of a FiLM-SIREN (Chan et al. 2021, pi-GAN, section 3.1)."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from shapegan_jax.networks.layers import Linear, init_lazily, kaiming_normal
from shapegan_jax.types import Key, PyTree


class MappingNetwork(nn.Module):
  """`n_hidden` linear layers with leaky ReLU 0.2, then one linear layer with `out` outputs: frequencies, then phases.

  The codes are raw: `FilmSiren` uses `frequency_scale * f + frequency_shift` for a frequency f. Truncation averages
  these raw codes.
  """

  out: int
  latent_dim: int = 256
  hidden_dim: int = 256
  n_hidden: int = 3

  def setup(self):
    widths = [self.latent_dim] + [self.hidden_dim] * self.n_hidden
    self.hidden = [Linear(i, o, kernel_init=kaiming_normal(0.2)) for i, o in itertools.pairwise(widths)]

    self.codes = Linear(widths[-1], self.out, kernel_init=kaiming_normal(0.2, gain=0.25))

  def __call__(self, latents: Float[Array, "*b d"]) -> tuple[Float[Array, "*b n"], Float[Array, "*b n"]]:
    """Latents (standard normal) -> (frequencies, phases), each [*b, out // 2]."""
    x = latents
    for layer in self.hidden:
      x = jax.nn.leaky_relu(layer(x), 0.2)
    codes = self.codes(x)
    return codes[..., : self.out // 2], codes[..., self.out // 2 :]

  @nn.nowrap
  def init_params(self, key: Key) -> PyTree:
    """Initial variables {"params": ...}: layers `hidden_0`, ... and `codes`."""
    return init_lazily(self, key, (1, self.latent_dim))
