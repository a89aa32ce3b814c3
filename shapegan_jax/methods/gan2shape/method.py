"""GAN2Shape: 3D shape from the knowledge in a 2D GAN (Pan et al., ICLR 2021, arXiv 2011.00844).

A GAN trained on images of one category has seen its objects in many views and lights. Starting from an ellipsoid, the
current shape of an image is rendered in random views and lights (pseudo samples); the nearest images that the GAN can
generate (projected samples) correct the errors of these renderings, and the shape is refitted to them. No views, lights
or keypoints are annotated, and symmetry need not be assumed.

Five networks take an image (`relief_model`): depth, albedo, view, light, and an offset of the GAN's latent. Let r be
the relief rendered in a view and light; L1, feature and LPIPS distances are restricted to its visible area.

- Step 1 ("albedo") trains the albedo network with |r - I| + 0.5 LPIPS(r, I), where I is the input image.
- Step 2 ("encoder") trains the offset encoder E with |G(w + d) - P| + sum_l |D_l(G(w + d)) - D_l(P)| + 0.01 mean d^2,
  where P is a pseudo sample, G and D are the frozen generator and discriminator, d = F(E(P) - E(G(w))), and F is the
  last layers of G's mapping network. Then ("projection") the projected samples G(w + d) are stored.
- Step 3 ("joint") trains depth, albedo, view and light networks with the loss of step 1 on I and on the projected
  samples, all reconstructed from the canonical depth and albedo of I; + 0.01 (roughness of depth and diffuse shading).

Ours, if `objectives` gives them weight, for small generators and short schedules:

- "texture": pseudo samples and step 3 use the input image itself as texture, unlit and projected onto the relief. It is
  sharp from the first step on; the albedo network learns it where the surface is visible in the image;
- "latent_regression": step 2 also trains E on the offsets between the instances and random images of the GAN, whose w
  is known, seen through the masks of pseudo samples;
- "moment_matching": the mean and standard deviation of the views and lights predicted for random images of the GAN
  match the priors, in "pose_warmup" (below) and step 3. Nothing else distinguishes a deep relief that rotates little
  from a flat one that rotates much, or keeps all instances from being predicted as rotated to one side;
- "depth_prior": in step 3 depth is pulled towards the prior shape where no image constrains it;
- "depth_scale": in step 3 the standard deviation of a depth map is held near that of the prior shape. With errors in
  the predicted views, too flat a relief fits the projected samples best;
- "pose_consistency": in step 3 the view and light predicted for a projected sample are pulled towards those of its
  pseudo sample.

With `gan.refine` the offset of each pseudo sample is optimised before its projected sample is stored: an encoder
trained on a few thousand pseudo samples follows only about a third of their rotation. The optimisation starts from the
encoder's output or, with `gan.directions`, from `methods.gan2shape.latent_directions`.

A stage of ours before step 2 ("pose_warmup") trains the view and light networks on pseudo samples, whose view and light
are known. It prevents the depth-reversal (hollow-face) ambiguity, and gives predicted views the scale of the relief.

Before the first round the depth network is fitted to the ellipsoid (networks that are given start unchanged).
Departures from the authors' code, where it differs from the paper: with several images each pseudo sample has the
ambient and diffuse light of its own input image (theirs has that of the last image of step 1); areas that a view does
not show are excluded from the losses of step 2 (theirs compares what is smeared there); the ellipsoid is fitted for all
images (theirs: for the first). Their F1_d is `gan.tail`, counted as they do: one less than the mapping layers that run.
`relief.nr_compat` restores their renderer. A background colour, an estimated view prior and 8-bit samples are ours.

Unsup3D and GAN2Shape are published under MIT licences; this is written from the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.ellipsoid import centroids
from shapegan_jax.methods.gan2shape.engine import StagedMethod
from shapegan_jax.methods.gan2shape.engine_settings import (
  AdamConfig,
  InstanceImages,
  StagedStage,
  StagedState,
  StageTable,
  StepBatch,
  Targets,
)
from shapegan_jax.methods.gan2shape.latent_directions import Directions
from shapegan_jax.methods.gan2shape.pseudo_samples import Estimates, PseudoSampling
from shapegan_jax.methods.gan2shape.reconstruction_losses import ReconstructionLosses
from shapegan_jax.methods.gan2shape.relief_model import NetworkConfig, ReliefConfig, ReliefModel
from shapegan_jax.methods.gan2shape.relief_rendering import ReliefRenderer
from shapegan_jax.methods.gan2shape.settings import (
  GanConfig,
  InstanceConfig,
  LightConfig,
  MaskConfig,
  Objectives,
  ViewConfig,
  ViewPrior,
  untrained_gan,
)
from shapegan_jax.methods.stylegan2.frozen import FrozenGenerator
from shapegan_jax.methods.stylegan2.method import StyleGan2
from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance
from shapegan_jax.rng import stream
from shapegan_jax.sections import RUN_SETTINGS, Schema, read_sections
from shapegan_jax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Gan2Shape(PseudoSampling, ReconstructionLosses, ReliefRenderer, StagedMethod):
  """GAN2Shape as a `Method`; the steps and their losses are described at the top of this file."""

  instances: InstanceConfig
  untrained: StyleGan2

  @classmethod
  def sections(cls, config: Mapping[str, Any]) -> Schema:
    """The dataclass of each section that the method reads."""
    del config
    return {
      "stages": StageTable,
      "instances": InstanceConfig,
      "gan": GanConfig,
      "networks": NetworkConfig,
      "relief": ReliefConfig,
      "masks": MaskConfig,
      "views": ViewConfig,
      "lights": LightConfig,
      "objectives": Objectives,
      "optimizers": AdamConfig,
    }

  @classmethod
  def read(cls, config: Mapping[str, Any]) -> dict[str, Any]:
    """The sections as their dataclasses.

    Raises:
      UserError: a setting that the method does not have, a value that may not stand there, or two that contradict.
    """
    read = read_sections(config, cls.sections(config), others=RUN_SETTINGS)
    if read["instances"].instance_specific and read["stages"].images_per_step != 1:
      raise UserError("config.stages.images_per_step: must be 1 with instances.instance_specific")
    return read

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> Gan2Shape:
    """From a plain nested config (see `configs/gan2shape.py`). Raises what `read` raises."""
    read = cls.read(config)
    table, instances, objectives = read["stages"], read["instances"], read["objectives"]
    untrained = untrained_gan((config.get("gan") or {}).get("network") or {})
    perceptual = None
    if objectives.perceptual and objectives.perceptual_net:
      perceptual = partial(perceptual_distance, load_perceptual(objectives.perceptual_net))
    return cls(
      table=table,
      stages=table.expand(1 if instances.instance_specific else instances.count),
      optimizer=read["optimizers"],
      instance_specific=instances.instance_specific,
      model=ReliefModel(table.resolution, untrained.generator.mapping.size, read["relief"], read["networks"]),
      instances=instances,
      masks=read["masks"],
      gan=read["gan"],
      untrained=untrained,
      views=read["views"],
      lights=read["lights"],
      objectives=objectives,
      perceptual=perceptual,
    )

  def plan(self, step: int) -> tuple[StagedStage, dict[str, float]]:
    """The engine's, and `estimate`: 1 where step 2 of a later round begins and the view prior is estimated again."""
    stage, anneals = super().plan(step)
    if self.views.estimate:
      later = any(stage.mode == "joint" for start, stage in self.stages if start < step)
      anneals["estimate"] = anneals["fresh"] * (later and stage.mode == "encoder")
    return stage, anneals

  def init_networks(self, key: Key) -> dict[str, PyTree]:
    return self.model.init(key)

  def init_targets(
    self, key: Key, networks: dict[str, PyTree], dependencies: Mapping[str, Any]
  ) -> tuple[Targets, Estimates, FrozenGenerator]:
    gan = dependencies.get("gan")
    if gan is None:
      gan = self.untrained.frozen(self.untrained.params_of(self.untrained.init(stream(key, "gan"))))
    instances = dependencies.get("instances") or self.sample_instances(gan, stream(key, "subjects"))
    trained, components = dependencies.get("networks"), 10  # of views and lights
    views, directions = self.views.configured_prior(), Directions.zeros(components, self.model.latent_size)
    if self.views.estimate and trained:
      views = self._estimated_views(networks, instances.image)
    if self.gan.directions and trained:
      directions = self.estimate_directions(networks, gan, views)
    gan_image = jax.lax.map(lambda w: self.generate(gan, w[None])[0], instances.latent)
    if trained:
      prior = jax.lax.map(lambda image: self.model.depth_without_border(networks, image[None])[0], instances.image)
    else:
      prior = self.masks.prior(instances.mask, released=self.model.relief.nr_compat)
    return Targets(instances, gan_image, prior), Estimates(views, directions), gan

  def sample_instances(self, gan: FrozenGenerator, key: Key) -> InstanceImages:
    """`instances.count` random images of the generator, the best centred of `instances.candidates` times as many."""
    count = self.instances.count
    latent = gan.sample(key, count * self.instances.candidates, truncation=self.instances.truncation)
    image = jax.lax.map(lambda w: self.generate(gan, w[None])[0], latent)
    mask = self.masks.of(image)
    centres = centroids(mask)
    distance = jnp.sum((centres - jnp.mean(centres, 0, keepdims=True)) ** 2, -1)
    chosen = jnp.sort(jnp.argsort(distance)[:count])
    return InstanceImages(image[chosen], latent[chosen], mask[chosen])

  def update_estimates(self, state: StagedState, anneals: dict[str, Array], *, stage: StagedStage) -> Estimates:
    estimates, networks = state.estimates, state.params
    if self.instance_specific:  # one instance does not give a prior
      return estimates
    if self.views.estimate and stage.mode == "encoder":
      images = state.targets.instances.image
      views = jax.lax.cond(
        anneals["estimate"] > 0, lambda: self._estimated_views(networks, images), lambda: estimates.views
      )
      return dataclasses.replace(estimates, views=views)
    if self.gan.directions and stage.mode == "projection":
      directions = jax.lax.cond(
        anneals["fresh"] > 0,
        lambda: self.estimate_directions(networks, state.gan, estimates.views),
        lambda: estimates.directions,
      )
      return dataclasses.replace(estimates, directions=directions)
    return estimates

  def _estimated_views(self, networks: dict[str, PyTree], images: Array) -> ViewPrior:
    views = jax.lax.map(lambda image: self.model.predict_views(networks, image[None])[0], images)
    return self.views.estimated_prior(views)

  def loss(
    self, params: dict[str, PyTree], batch: StepBatch, key: Key, stage: StagedStage
  ) -> tuple[Array, dict[str, Array]]:
    if stage.mode == "prior":
      error = self.model.depth_without_border(params, batch.targets.instances.image) - batch.targets.prior
      terms = {"squared": jnp.mean(error**2)}
    elif stage.mode == "pose_warmup":
      terms = self.pose_warmup_terms(params, batch, key) | self.moment_matching_terms(params, batch, key)
    elif stage.mode == "encoder":
      terms = self.encoder_terms(params, batch, key)
    else:
      terms = self.reconstruction_terms(params, batch, joint=stage.mode == "joint", flip=stage.flip)
      if stage.mode == "joint":
        terms |= self.moment_matching_terms(params, batch, key)
    return sum(terms.values()), {f"{stage.mode}/{name}": value for name, value in terms.items()}

  def object_mask(self, images: Array) -> Array:
    return self.masks.of(images) if self.masks.in_loss else jnp.ones(images.shape[:3])
