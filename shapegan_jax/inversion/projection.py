"""Projection: latents of a 2D generator whose images reproduce given photographs.

Adam moves one style w for the whole image (the space W; the space W+, with a style for each convolution, comes closer
to a photograph but leaves the distribution of the generator). For the generator's image g of w and the photograph p,
both in [-1, 1], and the mask m, it minimises

  l1 sum m |g - p| / sum m + l2 sum m (g - p)^2 / sum m + features sum_l |D_l(g) - D_l(p)| + perceptual LPIPS(g, p),

with D_l the features of the generator's own discriminator, which GAN2Shape compares pictures by as well. The recipe is
that of StyleGAN2's projector (Karras et al. 2020, appendix D): the rate rises over the first 5 % of the steps and falls
as a cosine over the last 25 %; noise as large as the standard deviation of w, ramped down over the first 75 %, helps to
escape local minima. Departures: w is moved in units of the standard deviation of each of its numbers, so that one rate
suits all generators; the noise maps stay those that the generator stores, since the latent is later used with them; the
best iterate is kept instead of the last one; and the search may start from several latents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance
from shapegan_jax.numerics import safe_div
from shapegan_jax.objectives.reconstruction import masked_feature_distance, masked_l1
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Key, PyTree, record

_PER_CALL = 10  # steps between reports of progress
_MEASURED = 4096  # latents from which mean and standard deviation are computed


@runtime_checkable
class PictureGenerator(Protocol):
  """What projection needs of a 2D generator (a pytree): that of `methods.stylegan2.frozen.FrozenGan`."""

  @property
  def resolution(self) -> int: ...

  def sample(self, key: Key, n: int, truncation: float = 1.0) -> Float[Array, "n d"]:
    """Random latents in the space of the search."""

  def image(self, w: Float[Array, "b d"]) -> Float[Array, "b r r 3"]:
    """Images of latents, in [-1, 1]."""

  def features(self, image: Float[Array, "b h w 3"]) -> tuple[Array, ...]:
    """Feature maps by which images are compared."""


@dataclasses.dataclass(frozen=True)
class ProjectionConfig:
  """Settings of the search.

  Args:
    steps: of the search, from each start for the first `trial` of them, then from the best one.
    starts: number of starts: the mean style and `starts` - 1 samples.
    rate: of Adam, in standard deviations of w (published: 0.1 in units of w).
    noise: added to w at the start, in its standard deviations (published: 0.05 of the norm of the standard deviations,
      which is 1.1 for 512 equal ones).
    l1, l2, features, perceptual: weights of the terms; see the module's docstring. LPIPS needs 32 pixels and the extra
      weights of `perceptual_net`.
  """

  steps: int = 400
  starts: int = 1
  trial: float = 0.2
  rate: float = 0.1
  noise: float = 1.0
  l1: float = 1.0
  l2: float = 0.0
  features: float = 0.1
  perceptual: float = 0.0
  perceptual_net: str = "vgg16"


@dataclasses.dataclass(frozen=True)
class Projection:
  """The result for n photographs."""

  latent: np.ndarray  # [n, latent]
  image: np.ndarray  # [n, r, r, 3] in [-1, 1]: the generator's pictures
  psnr: np.ndarray  # [n] dB over pictures in [0, 1], within the masks
  losses: np.ndarray  # [steps, n] the objective; of the best start while there are several


@record
class _Search:
  """The state of m searches."""

  place: Array  # [m, latent] in standard deviations from the mean
  moments: PyTree
  best: Array  # [m, latent] where the objective was lowest
  least: Array  # [m]


class Projector:
  """Finds photographs in a generator. Its programs are compiled once per number of photographs."""

  def __init__(self, gan: PictureGenerator, config: ProjectionConfig | None = None):
    """Args:
    gan: a frozen generator with its discriminator (`methods.stylegan2.frozen.FrozenGan`).
    config: settings of the search.

    Raises:
      UserError: LPIPS is used and its weights are not installed.
    """
    self.gan, self.config = gan, config or ProjectionConfig()
    self._net = load_perceptual(self.config.perceptual_net) if self.config.perceptual else None
    self._adam = optax.scale_by_adam()
    self._advance = jax.jit(self._some_steps)
    self._draw = jax.jit(lambda gan, latent: jax.lax.map(lambda w: gan.image(w[None])[0], latent))
    styles = jax.jit(lambda gan: gan.sample(stream(root_key(0), "deviation"), _MEASURED))(gan)
    self._mean, self._deviation = jnp.mean(styles, 0), jnp.std(styles, 0)

  def __call__(
    self,
    photographs: Float[np.ndarray, "n r r 3"],
    masks: Float[np.ndarray, "n r r"] | None = None,
    *,
    key: Key | None = None,
    progress: Callable[[int], object] = lambda done: None,
  ) -> Projection:
    """Project photographs in [-1, 1] of the generator's resolution independently.

    Args:
      photographs: framed like the generator's images.
      masks: the pixels that count; None: all.
      key: of starts and noise; None: always the same.
      progress: called with the number of steps done since its last call, `config.steps` in total.
    """
    n, size = len(photographs), self.gan.resolution
    if photographs.shape[1] != size:
      raise ValueError(f"photographs of {photographs.shape[1]} pixels given, the generator's {size} needed")
    masks = np.ones(photographs.shape[:3], np.float32) if masks is None else masks
    key = root_key(0) if key is None else key
    config, targets = self.config, (jnp.asarray(photographs, jnp.float32), jnp.asarray(masks, jnp.float32))
    starts, trial = max(1, config.starts), round(config.trial * config.steps)
    search, losses = self._begin(stream(key, "starts"), n, starts), []
    several = jax.tree.map(lambda x: jnp.tile(x, (starts, *(1,) * (x.ndim - 1))), targets)
    for first in range(0, config.steps, _PER_CALL):
      if starts > 1 and first >= trial:
        chosen = jnp.argmin(search.least.reshape(starts, n), 0) * n + jnp.arange(n)
        search = jax.tree.map(lambda x, rows=chosen: x[rows] if x.ndim else x, search)
        several, starts = targets, 1
      many = min(_PER_CALL, config.steps - first)
      noise_key = stream(key, "noise", first)
      search, objectives = self._advance(self.gan, search, several, noise_key, jnp.int32(first), jnp.int32(many))
      losses.append(np.asarray(objectives[:many]).reshape(many, starts, n).min(1))
      progress(many)
    latent = self._mean[None] + self._deviation[None] * search.best
    image = np.asarray(self._draw(self.gan, latent))
    history = np.concatenate(losses) if losses else np.zeros((0, n), np.float32)
    return Projection(np.asarray(latent), image, masked_psnr(image, photographs, masks), history)

  def _begin(self, key: Key, n: int, starts: int) -> _Search:
    """The initial [starts * n] searches, in the order of starts."""
    drawn = (self.gan.sample(key, starts, truncation=0.7) - self._mean[None]) / self._deviation[None]
    place = jnp.repeat(drawn.at[0].set(0.0), n, 0)
    return _Search(place, self._adam.init(place), place, jnp.full(len(place), jnp.inf, place.dtype))

  def _some_steps(
    self, gan: PictureGenerator, search: _Search, targets: tuple[Array, Array], key: Key, first: Array, many: Array
  ) -> tuple[_Search, Array]:
    """Steps `first` to `first + many` (at most `_PER_CALL`): (the searches, their objectives [_PER_CALL, m])."""
    config = self.config
    m = search.place.shape[0]

    def objective(place: Array, noise: Array, target: Array, mask: Array) -> Array:
      latent = self._mean + self._deviation * (place + noise)
      return self._objective(gan, latent[None], target[None], mask[None])

    both = jax.vmap(jax.value_and_grad(objective))

    def step(i: Array, state: tuple[_Search, Array]) -> tuple[_Search, Array]:
      search, losses = state
      done = (first + i) / max(config.steps, 1)
      rise, fall = jnp.minimum(1.0, (done + 1 / max(config.steps, 1)) / 0.05), jnp.minimum(1.0, (1 - done) / 0.25)
      rate = config.rate * rise * (0.5 - 0.5 * jnp.cos(jnp.pi * fall))
      scale = config.noise * jnp.maximum(0.0, 1 - done / 0.75) ** 2
      noise = scale * jax.random.normal(stream(key, "step", i), search.place.shape[1:])
      noise = jnp.broadcast_to(noise[None], search.place.shape)
      loss, gradient = both(search.place, noise, *targets)
      better = loss < search.least
      best = jnp.where(better[:, None], search.place + noise, search.best)
      direction, moments = self._adam.update(gradient, search.moments)
      moved = _Search(search.place - rate * direction, moments, best, jnp.where(better, loss, search.least))
      return moved, losses.at[i].set(loss)

    return jax.lax.fori_loop(0, many, step, (search, jnp.zeros((_PER_CALL, m))))

  def _objective(self, gan: PictureGenerator, latent: Array, target: Array, mask: Array) -> Array:
    """The objective of one photograph (all with a leading axis of 1)."""
    config, image = self.config, gan.image(latent)
    total = config.l1 * masked_l1(image, target, mask) if config.l1 else jnp.zeros(())
    if config.l2:
      total = total + config.l2 * safe_div(jnp.sum((image - target) ** 2 * mask[..., None]), 3 * jnp.sum(mask))
    if config.features:
      features = gan.features(image), gan.features(target)
      total = total + config.features * masked_feature_distance(*features, mask)
    if self._net is not None:
      shown = (image * mask[..., None], target * mask[..., None])
      total = total + config.perceptual * jnp.sum(perceptual_distance(self._net, *shown))
    return total


def masked_psnr(
  images: Float[np.ndarray, "n h w 3"], references: Float[np.ndarray, "n h w 3"], masks: Float[np.ndarray, "n h w"]
) -> Float[np.ndarray, " n"]:
  """Peak signal-to-noise ratio in dB, within the masks, of pictures in [-1, 1]; 120 where they are the same."""
  squared = ((images.astype(np.float64) - references) / 2) ** 2 * masks[..., None]
  error = squared.sum((1, 2, 3)) / np.maximum(3 * masks.sum((1, 2)), 1e-6)
  return -10 * np.log10(np.maximum(error, 1e-12))
