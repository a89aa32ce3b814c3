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
from typing import Any, ClassVar, final

import jax.numpy as jnp
from jaxtyping import Float

from shapegan_jax import parallel
from shapegan_jax.geometry.pixels import draw_patches, patch_points, read_patches
from shapegan_jax.methods.volume_gan.base import VolumeGan
from shapegan_jax.methods.volume_gan.cameras import PatchCameraConfig
from shapegan_jax.methods.volume_gan.discriminators import check_heads
from shapegan_jax.methods.volume_gan.engine import Fakes
from shapegan_jax.methods.volume_gan.settings import GanStage
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator
from shapegan_jax.rendering.samplers import HierarchicalSampler
from shapegan_jax.rng import stream
from shapegan_jax.sections import Count, Schema, Weight
from shapegan_jax.types import Array, DiscriminatorOutput, Key, PyTree, Rendering, Scene


@dataclasses.dataclass(frozen=True)
class PatchConfig:
  """Patches of `size` x `size` places at scales U(s_min, 1) of the picture's side.

  s_min starts at `first_scale` and is min(first_scale, max(min_scale, exp(-3 anneal floor(step / interval)))).
  """

  size: Count = 32
  min_scale: Weight = 0.25
  anneal: Weight = 0.0025
  interval: Count = 1000
  first_scale: Weight = 0.9

  def min_scale_at(self, step: int) -> float:
    """s_min at a step."""
    return min(self.first_scale, max(self.min_scale, math.exp(-3 * self.anneal * (step // self.interval))))


@final
@dataclasses.dataclass(frozen=True)
class Graf(VolumeGan):
  """A conditional NeRF, of which patches are rendered and compared."""

  FIELD = "nerf"
  DISCRIMINATOR: ClassVar[Mapping[str, type]] = {"patch": PatchDiscriminator}
  CAMERAS = PatchCameraConfig

  patches: PatchConfig

  @classmethod
  def own_sections(cls) -> Schema:
    return {"patches": PatchConfig}

  @classmethod
  def parts(cls, read: Mapping[str, Any]) -> dict[str, Any]:
    patches = read["patches"]
    discriminator = read["discriminator"].clone(resolution=patches.size)
    return super().parts(read) | {"patches": patches, "discriminator": discriminator}

  @classmethod
  def check(cls, read: Mapping[str, Any]) -> None:
    check_heads(read["discriminator"], read["objectives"], read["generator"].latent_dim)

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
    rendering = self.renderer(self.sampler(stage.samples), self.compositor())(
      gen_params,
      self.generator.codes(gen_params, scene.latents),
      scene.cameras,
      self.cameras.cast(scene.cameras, points.reshape(stage.batch_size, -1, 2)),
      key=stream(key, "samples"),
      noise_std=anneals.get("density_noise"),
    )
    return Fakes.of(rendering, scene)

  def render(
    self, params: PyTree, scene: Scene, *, resolution: int, truncation: float = 1.0, key: Key | None = None
  ) -> Rendering:
    codes = self.generator.codes(params, scene.latents, truncation=truncation)
    renderer = self.renderer(self.sampler(self.eval_samples), self.compositor(evaluation=True), gradient=True)
    return renderer(params, codes, scene.cameras, self.rays(scene.cameras, resolution), key=key)

  def sampler(self, samples: int) -> HierarchicalSampler:
    return dataclasses.replace(super().sampler(samples), placement="stratified")

  def crossed_latents(self, latents: Float[Array, "n d"]) -> Float[Array, "n n d"]:
    """Row i, column j: the appearance of latent i on the shape of latent j."""
    n, first = latents.shape[0], self.generator.code_shapes[0][0]
    shapes = jnp.repeat(latents[None, :, :first], n, 0)
    appearances = jnp.repeat(latents[:, None, first:], n, 1)
    return jnp.concatenate([shapes, appearances], -1)

  def _draw_patches(self, key: Key, n: int, anneals: Mapping[str, Array]) -> tuple[Array, Array]:
    return parallel.over_batch(draw_patches(key, n, self.patches.size, min_scale=anneals["patch_scale_min"]))
