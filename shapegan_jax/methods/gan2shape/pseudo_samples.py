"""Step 2 of GAN2Shape: drawings of reliefs in views and lights that are known, and the generator's pictures of them.

See `gan2shape.method`. What is ours of step 2 is here too: views and lights that are read off drawings, offsets that
are learned between pictures of known styles, and the moments of what is read off the generator's own pictures.
"""

from __future__ import annotations

import abc
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from shapegan_jax import parallel
from shapegan_jax.methods.gan2shape.engine_settings import RoundTable, Samples, Work
from shapegan_jax.methods.gan2shape.latent_directions import Directions, measured_directions
from shapegan_jax.methods.gan2shape.relief_model import ReliefModel, lit
from shapegan_jax.methods.gan2shape.settings import GanConfig, MaskConfig, Objectives, Relighting, ViewPrior, Views
from shapegan_jax.objectives.reconstruction import masked_feature_distance, masked_l1
from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Key, PyTree, record

_CENSUS = 32  # fresh pictures of a step, on which moments are taken
_REFINING = 0.1  # Adam's rate, in deviations of a style's numbers: that of `inversion.projection`
_MEASURED = 1024  # styles from which these deviations are taken


@record
class Drawings:
  """Pictures [k * b] of k subjects' reliefs, and what was asked of them."""

  image: Array  # [k * b, s, s, 3] in [-1, 1]
  mask: Array  # [k * b, s, s]
  views: Array  # [k * b, 6] in a view network's units
  lights: Array  # [k * b, 4] codes in the frame of `geometry.relief`


@record
class Memory:
  """What a run learns of the generator by the way: of which views drawings are, and where in its styles views lie."""

  views: ViewPrior
  directions: Directions


@dataclasses.dataclass(frozen=True)
class Corrections(abc.ABC):
  """See the module's docstring."""

  model: ReliefModel
  table: RoundTable
  masks: MaskConfig
  gan: GanConfig
  views: Views
  relighting: Relighting
  objectives: Objectives

  def collect(self, params: dict[str, PyTree], work: Work, key: Key) -> tuple[Samples, dict[str, Array]]:
    drawn = self.drawings(params, work, key)
    corrected, offset = self.corrected(params, work, drawn.image)
    metrics = {"collect/l1": masked_l1(corrected, drawn.image, drawn.mask)}
    if self.gan.refine:
      if self.gan.directions:
        offset = self._directed(params, work, drawn)
      corrected = self._refined(work, drawn, offset)
      metrics["collect/l1_refined"] = masked_l1(corrected, drawn.image, drawn.mask)
    k, b = work.targets.rendition.shape[0], self.table.samples
    kept = (corrected, drawn.mask, drawn.views, drawn.lights)
    return Samples.of(*(x.reshape(k, b, *x.shape[1:]) for x in kept)), metrics

  def rendition(self, gan: PyTree, latents: Array) -> Array:
    """The generator's pictures of latents [b, latent], in [-1, 1], as the method sees pictures."""
    return self.gan.resized(gan.image(latents), self.model.resolution)

  def correction_terms(self, params: dict[str, PyTree], work: Work, key: Key) -> dict[str, Array]:
    """Step 2: the generator's nearest pictures to drawings of the relief."""
    weights = self.objectives
    drawn = jax.lax.stop_gradient(self.drawings(params, work, key))
    corrected, offset = self.corrected(params, work, drawn.image)
    terms = self._misfit(work, corrected, drawn)
    if weights.latents:
      terms["latents"] = weights.latents * self._offsets_between_pictures(params, work, drawn.mask, key)
    return terms | {"regular": weights.regular * jnp.mean(offset**2)}

  def _misfit(self, work: Work, corrected: Array, drawn: Drawings) -> dict[str, Array]:
    terms = {"l1": masked_l1(corrected, drawn.image, drawn.mask)}
    if self.objectives.features:
      features, targets = work.gan.features(corrected), work.gan.features(drawn.image)
      terms["features"] = self.objectives.features * masked_feature_distance(features, targets, drawn.mask)
    return terms

  def _refined(self, work: Work, drawn: Drawings, offset: Array) -> Array:
    """The generator's pictures after `gan.refine` steps of Adam on each drawing's own offset, from `offset` on."""
    latent = jnp.repeat(work.targets.subjects.latent, self.table.samples, 0)
    unit, adam = self._unit(work.gan), optax.adam(_REFINING)

    def picture(place: Array) -> Array:
      return self.rendition(work.gan, latent + unit * place)

    def misfit(place: Array) -> Array:
      # A sum over drawings, since Adam's steps do not depend on how many there are; its epsilon would.
      return len(latent) * sum(self._misfit(work, picture(place), drawn).values())

    def step(_: Array, state: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
      place, moments = state
      direction, moments = adam.update(jax.grad(misfit)(place), moments)
      return place + direction, moments

    place = offset / unit
    return picture(jax.lax.fori_loop(0, self.gan.refine, step, (place, adam.init(place)))[0])

  def read(self, params: dict[str, PyTree], pictures: Array) -> Array:
    """[b, 10] views and lights that the networks read off pictures."""
    return jnp.concatenate([self.model.views(params, pictures), self.model.lights(params, pictures)], -1)

  def measured(self, params: dict[str, PyTree], gan: PyTree, views: ViewPrior) -> Directions:
    """The directions of views and lights in the generator's styles, as the networks now read them."""
    varying = (self._expected(views)[1] > 0).astype(jnp.float32)
    return measured_directions(partial(self.read, params), partial(self.rendition, gan), gan, varying)

  def _directed(self, params: dict[str, PyTree], work: Work, drawn: Drawings) -> Array:
    """The offsets along the directions that lead from what subjects show to what their drawings show."""
    asked = jnp.concatenate([drawn.views, drawn.lights], -1)
    shown = jnp.repeat(self.read(params, work.targets.subjects.image), self.table.samples, 0)
    return work.memory.directions.offsets(asked, shown, *self._expected(work.memory.views))

  def _expected(self, views: ViewPrior) -> tuple[Array, Array]:
    """Mean and deviation [10] of the priors of views and lights; 0 of lights without a prior."""
    lights = self.relighting.moments() if self.relighting.prior is not None else (jnp.zeros(4), jnp.zeros(4))
    both = ((views.mean, jnp.sqrt(jnp.sum(views.root**2, -1))), lights)
    mean, deviation = map(jnp.concatenate, zip(*both, strict=True))
    return mean, deviation

  def reading_terms(self, params: dict[str, PyTree], work: Work, key: Key) -> dict[str, Array]:
    """The squared errors of views and lights that are read off drawings."""
    drawn = jax.lax.stop_gradient(self.drawings(params, work, key))
    found = (read(params, drawn.image) for read in (self.model.views, self.model.lights))
    return reading_errors(*found, drawn.views, drawn.lights)

  def moment_terms(self, params: dict[str, PyTree], work: Work, key: Key) -> dict[str, Array]:
    """How far mean and deviation of what is read off fresh pictures are from the priors': sums of squares."""
    if not self.objectives.moments:
      return {}
    fresh = jax.lax.stop_gradient(self.rendition(work.gan, work.gan.sample(stream(key, "census"), _CENSUS)))
    found, (mean, deviation) = self.read(params, fresh), self._expected(work.memory.views)
    off = found - jnp.mean(found, 0, keepdims=True)
    spread = jnp.sqrt(jnp.sum(off**2, 0) / (_CENSUS - 1) + 1e-6)
    errors = self.objectives.moments * ((jnp.mean(found, 0) - mean) ** 2 + (spread - deviation) ** 2)
    terms = {"views_moments": jnp.sum(errors[:6])}
    if self.relighting.prior is not None:
      terms["lights_moments"] = jnp.sum(errors[6:])
    return terms

  def _offsets_between_pictures(self, params: dict[str, PyTree], work: Work, masks: Array, key: Key) -> Array:
    """The squared error, in deviations of styles, of offsets from the subjects to other pictures, of known styles.

    These are seen through `masks`, those of drawings: what drawings do not show must not be read as a view.
    """
    latent = jnp.repeat(work.targets.subjects.latent, self.table.samples, 0)
    others = work.gan.sample(stream(key, "others"), latent.shape[0])
    pictures = jax.lax.stop_gradient(self.masks.on_background(self.rendition(work.gan, others), masks))
    errors = self._offsets(params, work, pictures) - (others - latent)
    return jnp.mean((errors / self._unit(work.gan)) ** 2)

  def _unit(self, gan: PyTree) -> Array:
    """[1, latent] the deviation of each of a style's numbers, always from the same styles."""
    return jnp.std(gan.sample(root_key(0), _MEASURED), 0)[None]

  def drawings(self, params: dict[str, PyTree], work: Work, key: Key) -> Drawings:
    """The subjects' reliefs in views and lights of the priors, `table.samples` of each."""
    model, subjects = self.model, work.targets.subjects
    k, b = subjects.image.shape[0], self.table.samples
    canonical, lights = model.canonical(params, subjects.image), model.lights(params, subjects.image)
    canonical_mask = jnp.ones_like(subjects.mask)
    own = model.in_units(model.views(params, subjects.image))
    if self.masks.in_loss:
      canonical_mask = model.canonical_mask(canonical.depth, subjects.mask, own)
    if self.objectives.texture:
      canonical, _ = model.laid_on(canonical, subjects.image, own, lights)
    asked = self.views.sample(stream(key, "views"), work.memory.views, k * b)
    canonical, lights, canonical_mask = jax.tree.map(lambda x: jnp.repeat(x, b, 0), (canonical, lights, canonical_mask))
    lights = self.relighting.sample(stream(key, "lights"), lights)
    canonical, lights, canonical_mask, asked = parallel.over_batch((canonical, lights, canonical_mask, asked))
    seen = model.see(canonical.depth, lit(canonical, lights)[0], model.in_units(asked))
    mask = seen.valid * sample_image(canonical_mask[..., None], seen.grid, method="nearest")[..., 0]
    return Drawings(self.masks.on_background(seen.image, mask), mask, asked, lights)

  def corrected(self, params: dict[str, PyTree], work: Work, drawn: Array) -> tuple[Array, Array]:
    """(the generator's pictures of drawings [k * b] of the subjects, the offsets of their latents)."""
    moved = self._offsets(params, work, drawn)
    b = drawn.shape[0] // work.targets.rendition.shape[0]
    return self.rendition(work.gan, jnp.repeat(work.targets.subjects.latent, b, 0) + moved), moved

  def _offsets(self, params: dict[str, PyTree], work: Work, pictures: Array) -> Array:
    """How far from the subjects' latents those of pictures [k * b] are."""
    b = pictures.shape[0] // work.targets.rendition.shape[0]
    offset = self.model.apply(params, "offset", pictures)
    if self.gan.relative:
      offset = offset - jnp.repeat(self.model.apply(params, "offset", work.targets.rendition), b, 0)
    return work.gan.offset(offset, self.gan.tail)


def reading_errors(
  views: Float[Array, "*b 6"],
  lights: Float[Array, "*b 4"],
  asked_views: Float[Array, "*b 6"],
  asked_lights: Float[Array, "*b 4"],
) -> dict[str, Float[Array, ""]]:
  """{"views", "lights"}: mean squared distances of what is read off drawings from what was asked of them."""
  square = lambda error: jnp.mean(jnp.sum(error**2, -1))  # noqa: E731
  return {"views": square(views - asked_views), "lights": square(lights - asked_lights)}
