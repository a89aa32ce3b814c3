"""GRAF: generative radiance fields for 3D-aware image synthesis (Schwarz et al., NeurIPS 2020, arXiv 2007.02442).

A NeRF conditioned on two codes, one for shape and one for appearance, is rendered from a random pose, but never as a
whole: a K x K patch of random position and scale is, and a discriminator compares it with patches drawn in the same way
from real pictures. So the cost of a step does not depend on the resolution, and early patches show the whole object at
a coarse scale, later ones its details.

Implemented (section 3.2): the field, whose density depends on position and shape code, its colour also on direction and
appearance code; patches at scale s ~ U(s_min, 1), whose places lie between pixels; volume rendering; the non-saturating
loss with R1. The range of scales widens while training.

What differs from the authors' code (MIT; nothing of it is copied): rays are unit and in our y-up world, and `near` and
`far` are multiplied by a ray's length along the optical axis instead (`cameras.planar_range`), which is the same; the
field turns points into their frame before it encodes them (`field.z_up`). Spectral norm takes one step of power
iteration per update; theirs one per forward pass. R1 is per patch: their weight of 10 is divided by the pixels of a
patch by a slip of axes, which `configs/graf.py` accounts for. There is no mapping network and so no mean code:
truncation multiplies the latent, that is, draws it towards 0, the mode of its prior.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.pixels import draw_patches, patch_points, read_patches
from shapegan_jax.methods.volume_gan.cameras import PatchCameraConfig
from shapegan_jax.methods.volume_gan.engine import Fakes
from shapegan_jax.methods.volume_gan.generators import NerfGenerator
from shapegan_jax.methods.volume_gan.pigan import PiGan
from shapegan_jax.methods.volume_gan.renderer import RenderConfig
from shapegan_jax.methods.volume_gan.settings import GanStage, engine_parts
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator
from shapegan_jax.rendering.volume import Sampler
from shapegan_jax.rng import stream
from shapegan_jax.sections import section
from shapegan_jax.types import Array, DiscriminatorOutput, Key, PyTree


@dataclasses.dataclass(frozen=True)
class PatchConfig:
  """Patches of `size` x `size` places at scales U(s_min, 1) of the picture's side.

  s_min starts at `first_scale` and is min(first_scale, max(min_scale, exp(-3 anneal floor(step / interval)))).
  """

  size: int = 32
  min_scale: float = 0.25
  anneal: float = 0.0025
  interval: int = 1000
  first_scale: float = 0.9

  def min_scale_at(self, step: int) -> float:
    """s_min at a step."""
    return min(self.first_scale, max(self.min_scale, math.exp(-3 * self.anneal * (step // self.interval))))


@dataclasses.dataclass(frozen=True)
class Graf(PiGan):
  """The method; see the module's docstring. Priors, compositing and queries are pi-GAN's."""

  generator: NerfGenerator
  cameras: PatchCameraConfig
  patches: PatchConfig

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> Graf:
    """From a plain nested config (see `configs/graf.py`)."""
    patches, cameras = (
      section(PatchConfig, config.get("patches"), "patches"),
      section(PatchCameraConfig, config.get("cameras"), "cameras"),
    )
    if cameras.align not in ("corners", "centres", "left"):
      raise UserError(f"config.cameras.align: {cameras.align!r} is not one of corners, centres, left")
    discriminator = {**config["discriminator"], "resolution": patches.size}
    return cls(
      **engine_parts(config),
      discriminator=section(PatchDiscriminator, discriminator, "discriminator"),
      generator=NerfGenerator.from_config(config),
      cameras=cameras,
      rendering=section(RenderConfig, config.get("rendering"), "rendering"),
      patches=patches,
    )

  def plan(self, step: int) -> tuple[GanStage, dict[str, float]]:
    """Adds `patch_scale_min`."""
    stage, anneals = super().plan(step)
    return stage, anneals | {"patch_scale_min": self.patches.min_scale_at(step)}

  def real_images(self, image: Array, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Array:
    """A patch of each real picture, drawn as the generator's are."""
    del stage
    return read_patches(image, *self._draw_patches(key, image.shape[0], anneals))

  def discriminate(
    self, disc_params: PyTree, disc_extra: PyTree, image: Array, anneals: Mapping[str, Array], stage: GanStage
  ) -> DiscriminatorOutput:
    del anneals, stage
    return self.discriminator.apply({"params": disc_params, **disc_extra}, image)

  def advance_discriminator(self, disc_params: PyTree, disc_extra: PyTree) -> PyTree:
    """One step of power iteration."""
    variables = {"params": disc_params, **disc_extra}
    return self.discriminator.apply(variables, method="advance", mutable=list(disc_extra))[1]

  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Fakes:
    """One patch of each of a batch of pictures of `stage.resolution`."""
    scene = self.training_scene(key, stage.batch_size)
    lines = self._draw_patches(stream(key, "patches"), stage.batch_size, anneals)
    points = patch_points(*lines, stage.resolution, stage.resolution, align=self.cameras.align)
    rendering = self._render(
      gen_params,
      self.generator.codes(gen_params, scene.latents),
      scene.cameras,
      resolution=self.patches.size,
      sampler=self.sampler(stage.samples),
      compositor=self.compositor(),
      key=stream(key, "samples"),
      noise_std=anneals.get("density_noise"),
      rays=self.cameras.cast(scene.cameras, points.reshape(stage.batch_size, -1, 2)),
    )
    return Fakes.of(rendering, scene)

  def sampler(self, samples: int) -> Sampler:
    return dataclasses.replace(super().sampler(samples), placement="stratified")

  def crossed_latents(self, latents: Float[Array, "n d"]) -> Float[Array, "n n d"]:
    """Row i, column j: the appearance of latent i on the shape of latent j."""
    n, first = latents.shape[0], self.generator.field.shape_dim
    shapes = jnp.repeat(latents[None, :, :first], n, 0)
    appearances = jnp.repeat(latents[:, None, first:], n, 1)
    return jnp.concatenate([shapes, appearances], -1)

  def _draw_patches(self, key: Key, n: int, anneals: Mapping[str, Array]) -> tuple[Array, Array]:
    return parallel.over_batch(draw_patches(key, n, self.patches.size, min_scale=anneals["patch_scale_min"]))
