"""GAN2Shape: the shapes that a 2D generator of pictures knows without having been told (Pan et al., ICLR 2021,
arXiv 2011.00844).

A generator that has seen many pictures of a kind of object has seen it from many sides. A first guess of a picture's
shape, an ellipsoid, is drawn in other views and lights; the nearest pictures that the generator can draw put right what
is wrong with these drawings, and the shape is learned anew from what they show. Neither views, lights nor keypoints are
known, and no symmetry need be assumed.

Five networks read a picture (`relief_model`): depth, albedo, view, light, and an offset of the generator's
latent. With r the relief drawn in a view and light, and L1, features and LPIPS taken where the relief is seen,

- step 1 ("albedo"): albedo from |r - I| + 0.5 LPIPS(r, I), with I the picture;
- step 2 ("encoder"): offset encoder E from |G(w + d) - P| + sum_l |D_l(G(w + d)) - D_l(P)| + 0.01 mean d^2, with P a
  drawing of the relief in a random view and light, G, D the frozen generator and discriminator, and
  d = F(E(P) - E(G(w))), F the last layers of G's mapping network. Then ("collect") the pictures G(w + d) are kept;
- step 3 ("joint"): depth, albedo, view and light networks from step 1's loss and the same of the pictures that were
  kept, all with the canonical depth and albedo read off I; + 0.01 (roughness of depth and diffuse shading).

Ours, where `objectives` give them weight, for generators and schedules of two cores:

- "texture": drawings, and step 3, have the picture itself as their texture, unlit and laid on the relief. It is
  sharp from the first step on; the albedo network learns what it comes to where the picture shows it;
- "latents": step 2 also learns the offsets between the subjects and other pictures of the generator, whose w is known,
  seen through the masks of drawings;
- "moments": what the view and light networks answer for fresh pictures of the generator has the mean and deviation of
  the priors, from "reading" on (below). Nothing else tells a deep relief that turns little from a flat one that turns
  much, or keeps all subjects from being read as if they were turned to one side;
- "anchor": in step 3 the depth network is drawn to the shape it began with, which holds what no picture tells of;
- "height": in step 3 a depth map's deviation is held to that of the shape it began with. Views that are read with
  errors explain what moves by too flat a relief;
- "asked": in step 3 what is read off a picture that was kept is drawn to the view and light of its drawing.

With `gan.refine` a drawing's offset is searched for before its picture is kept: an encoder that has seen a few thousand
drawings follows their views by a third. The search begins at the encoder's answer or, with `gan.directions`, where
`methods.gan2shape.latent_directions` leads.

A stage of ours before step 2 ("reading") teaches views and lights by drawings, of which both are known. So a
convex relief is never taken for a hollow one, and views begin as large as the relief has them.

Before the first round the depth network learns the ellipsoid (networks that are handed in begin as they are).
Departures from the authors' code, where its meaning and the paper's differ: with many subjects every drawing has its
own subject's ambient and diffuse light (theirs has that of the last subject met in step 1); what a view does not see is
left out of step 2's losses (theirs compares what is smeared there); the ellipsoid is learned for all subjects (theirs:
the first). Their F1_d is `gan.tail` and counted as they do: one less than the mapping layers that run.
`relief.nr_compat` brings back their renderer. A background colour, an estimated view prior and 8-bit samples are ours.

Unsup3D and GAN2Shape are published under MIT licences; this is written from the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.ellipsoid import centroids
from shapegan_jax.methods.gan2shape.engine import StagedMethod
from shapegan_jax.methods.gan2shape.engine_settings import (
  AdamConfig,
  RoundTable,
  StagedStage,
  StagedState,
  Subjects,
  Targets,
  Work,
)
from shapegan_jax.methods.gan2shape.latent_directions import Directions
from shapegan_jax.methods.gan2shape.pseudo_samples import Corrections, Memory, reading_errors
from shapegan_jax.methods.gan2shape.relief_rendering import ReliefPictures
from shapegan_jax.methods.gan2shape.settings import (
  GanConfig,
  MaskConfig,
  Objectives,
  Relighting,
  SubjectConfig,
  ViewPrior,
  Views,
  untrained_gan,
)
from shapegan_jax.methods.stylegan2.method import StyleGan2
from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance
from shapegan_jax.objectives.reconstruction import masked_l1, smoothness
from shapegan_jax.relief_model import NetworkConfig, ReliefConfig, ReliefModel, cosines, lit
from shapegan_jax.rng import stream
from shapegan_jax.sections import section
from shapegan_jax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Gan2Shape(Corrections, ReliefPictures, StagedMethod):
  """The method; see the module's docstring."""

  subjects: SubjectConfig
  untrained: StyleGan2
  perceptual: Callable[[Array, Array], Array] | None

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> Gan2Shape:
    """From a plain nested config (see `configs/gan2shape.py`)."""
    table, subjects = (
      section(RoundTable, config.get("stages"), "stages"),
      section(SubjectConfig, config.get("subjects"), "subjects"),
    )
    gan = dict(config["gan"])
    untrained = untrained_gan(gan.pop("network", {}))
    objectives = section(Objectives, config.get("objectives"), "objectives")
    perceptual = None
    if objectives.perceptual and objectives.perceptual_net:
      perceptual = partial(perceptual_distance, load_perceptual(objectives.perceptual_net))
    if subjects.instance and table.images_per_step != 1:
      raise UserError("config.stages.images_per_step: instances have weights of their own; it must be 1")
    return cls(
      table=table,
      stages=table.expand(1 if subjects.instance else subjects.count),
      optimizer=section(AdamConfig, config.get("optimizers"), "optimizers"),
      instance=subjects.instance,
      model=ReliefModel(
        table.resolution,
        untrained.generator.mapping.size,
        section(ReliefConfig, config.get("relief"), "relief"),
        section(NetworkConfig, config.get("networks"), "networks"),
      ),
      subjects=subjects,
      masks=section(MaskConfig, config.get("masks"), "masks"),
      gan=section(GanConfig, gan, "gan"),
      untrained=untrained,
      views=section(Views, config.get("views"), "views"),
      relighting=section(Relighting, config.get("lights"), "lights"),
      objectives=objectives,
      perceptual=perceptual,
    )

  def plan(self, step: int) -> tuple[StagedStage, dict[str, float]]:
    """The engine's, and `estimate`: 1 where a later round's step 2 begins and the view prior is measured anew."""
    stage, anneals = super().plan(step)
    if self.views.estimate:
      later = any(stage.mode == "joint" for start, stage in self.stages if start < step)
      anneals["estimate"] = anneals["fresh"] * (later and stage.mode == "encoder")
    return stage, anneals

  def init_networks(self, key: Key) -> dict[str, PyTree]:
    return self.model.init(key)

  def init_targets(
    self, key: Key, networks: dict[str, PyTree], dependencies: Mapping[str, Any]
  ) -> tuple[Targets, PyTree, PyTree]:
    gan = dependencies.get("gan")
    if gan is None:
      gan = self.untrained.frozen(self.untrained.params_of(self.untrained.init(stream(key, "gan"))))
    subjects = dependencies.get("subjects") or self.draw_subjects(gan, stream(key, "subjects"))
    trained, numbers = dependencies.get("networks"), 10  # views and lights
    views, directions = self.views.given(), Directions.none(numbers, self.model.latent_size)
    if self.views.estimate and trained:
      views = self._measured_views(networks, subjects.image)
    if self.gan.directions and trained:
      directions = self.measured(networks, gan, views)
    rendition = jax.lax.map(lambda w: self.rendition(gan, w[None])[0], subjects.latent)
    if trained:
      prior = jax.lax.map(lambda image: self.model.depth_inside(networks, image[None])[0], subjects.image)
    else:
      prior = self.masks.prior(subjects.mask, released=self.model.relief.nr_compat)
    return Targets(subjects, rendition, prior), Memory(views, directions), gan

  def draw_subjects(self, gan: Any, key: Key) -> Subjects:
    """`subjects.count` pictures of the generator, of more candidates the best centred ones."""
    count = self.subjects.count
    latent = gan.sample(key, count * self.subjects.candidates, truncation=self.subjects.truncation)
    image = jax.lax.map(lambda w: self.rendition(gan, w[None])[0], latent)
    mask = self.masks.of(image)
    places = centroids(mask)
    away = jnp.sum((places - jnp.mean(places, 0, keepdims=True)) ** 2, -1)
    chosen = jnp.sort(jnp.argsort(away)[:count])
    return Subjects(image[chosen], latent[chosen], mask[chosen])

  def remember(self, state: StagedState, anneals: dict[str, Array], *, stage: StagedStage) -> Memory:
    memory, networks = state.memory, state.params
    if self.instance:  # each of which has networks of its own
      return memory
    if self.views.estimate and stage.mode == "encoder":
      images = state.targets.subjects.image
      views = jax.lax.cond(
        anneals["estimate"] > 0, lambda: self._measured_views(networks, images), lambda: memory.views
      )
      return dataclasses.replace(memory, views=views)
    if self.gan.directions and stage.mode == "collect":
      directions = jax.lax.cond(
        anneals["fresh"] > 0, lambda: self.measured(networks, state.gan, memory.views), lambda: memory.directions
      )
      return dataclasses.replace(memory, directions=directions)
    return memory

  def _measured_views(self, networks: dict[str, PyTree], images: Array) -> ViewPrior:
    views = jax.lax.map(lambda image: self.model.views(networks, image[None])[0], images)
    return self.views.measured(views)

  def loss(self, params: dict[str, PyTree], work: Work, key: Key, stage: StagedStage) -> tuple[Array, dict[str, Array]]:
    if stage.mode == "prior":
      error = self.model.depth_inside(params, work.targets.subjects.image) - work.targets.prior
      terms = {"squared": jnp.mean(error**2)}
    elif stage.mode == "reading":
      terms = self.reading_terms(params, work, key) | self.moment_terms(params, work, key)
    elif stage.mode == "encoder":
      terms = self.correction_terms(params, work, key)
    else:
      terms = self._explanation_terms(params, work, joint=stage.mode == "joint", flip=stage.flip)
      if stage.mode == "joint":
        terms |= self.moment_terms(params, work, key)
    return sum(terms.values()), {f"{stage.mode}/{name}": value for name, value in terms.items()}

  def _explanation_terms(self, params: dict[str, PyTree], work: Work, *, joint: bool, flip: bool) -> dict[str, Array]:
    """Steps 1 and 3: the subjects, and in step 3 samples of them, explained by what is read off the subjects."""
    subjects, model, weights = work.targets.subjects, self.model, self.objectives
    image = subjects.image[:, None]
    mask = (subjects.mask if self.masks.in_loss else jnp.ones_like(subjects.mask))[:, None]
    if joint:
      drawn, drawn_mask = work.samples.unpacked()  # [k, m - 1, ...]
      image, mask = (jnp.concatenate(pair, 1) for pair in ((image, drawn), (mask, drawn_mask)))
    k, m = image.shape[:2]
    flat = parallel.over_batch(image.reshape(k * m, *image.shape[2:]))
    read, lights = model.views(params, flat), model.lights(params, flat)
    views = model.in_units(read)
    canonical = model.canonical(params, subjects.image)
    terms: dict[str, Array] = {}
    if joint and weights.asked:
      found = (x.reshape(k, m, -1)[:, 1:] for x in (read, lights))
      errors = reading_errors(*found, work.samples.views, work.samples.lights)
      terms |= {f"asked_{name}": weights.asked * error for name, error in errors.items()}
    if joint and (weights.anchor or weights.height):
      terms |= self._prior_terms(model.depth_inside(params, subjects.image), work.targets.prior)
    if joint and weights.texture:
      own = [x.reshape(k, m, -1)[:, 0] for x in (views, lights)]
      laid, shown = model.laid_on(canonical, subjects.image, *own)
      inside = shown * model.canonical_mask(canonical.depth, mask[:, 0], own[0])
      targets, inside = jax.lax.stop_gradient((laid.albedo, inside))
      terms["texture"] = weights.texture * masked_l1(canonical.albedo, targets, inside)
      canonical = laid
    sides = 2 if flip else 1
    if flip:
      both = (jnp.concatenate([x, jnp.flip(x, 2)]) for x in (canonical.depth, canonical.albedo))
      canonical = model.canonical_of(*both)
      views, lights = jnp.tile(views, (2, 1)), jnp.tile(lights, (2, 1))
    texture, _ = lit(jax.tree.map(lambda x: jnp.repeat(x, m, 0), canonical), lights)
    seen = model.see(jnp.repeat(canonical.depth, m, 0), texture, views)
    # A mirrored relief explains the pictures where the other one does too.
    valid = jnp.prod(seen.valid.reshape(sides, k, m, *seen.valid.shape[1:]), 0)
    mask = mask * valid
    for name, part in {"": slice(0, 1), "samples_": slice(1, None)}.items():
      if part.start >= m:
        continue
      for side in seen.image.reshape(sides, *image.shape):
        for kind, value in self._distances(side[:, part], image[:, part], mask[:, part]).items():
          terms[name + kind] = terms.get(name + kind, 0.0) + value
    if joint and weights.smooth:
      own = lights.reshape(sides * k, m, 4)[:, 0]
      shading = cosines(canonical.normals, own[:, None, None])
      terms["smooth"] = weights.smooth * (smoothness(canonical.depth) + smoothness(shading))
    return terms

  def _prior_terms(self, depth: Array, prior: Array) -> dict[str, Array]:
    """What holds depth inside the border to the shape it began with."""
    weights, terms = self.objectives, {}
    if weights.anchor:
      error = (depth - prior) / (self.masks.far - self.masks.near)
      terms["anchor"] = weights.anchor * jnp.mean(error**2)
    if weights.height:
      terms["height"] = weights.height * height_error(depth, prior)
    return terms

  def _distances(self, image: Array, target: Array, mask: Array) -> dict[str, Array]:
    terms = {"l1": masked_l1(image, target, mask)}
    if self.perceptual is not None:
      flat = [(x * mask[..., None]).reshape(-1, *x.shape[2:]) for x in (image, target)]
      terms["perceptual"] = self.objectives.perceptual * jnp.mean(self.perceptual(*flat))
    return terms

  def object_mask(self, pictures: Array) -> Array:
    return self.masks.of(pictures) if self.masks.in_loss else jnp.ones(pictures.shape[:3])


def height_error(depth: Float[Array, "b s s"], prior: Float[Array, "b s s"]) -> Float[Array, ""]:
  """Mean squared error of the depth maps' deviations, as parts of the prior's."""

  def deviation(maps: Array) -> Array:
    return jnp.sqrt(jnp.var(maps, (1, 2)) + 1e-12)  # a flat map has a gradient, too

  return jnp.mean((deviation(depth) / deviation(prior) - 1) ** 2)
