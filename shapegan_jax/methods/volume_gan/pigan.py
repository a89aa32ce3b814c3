"""pi-GAN: periodic implicit generative adversarial networks (Chan et al., CVPR 2021, arXiv 2012.00926).

A mapping network turns a latent into frequencies and phases that modulate a SIREN, a neural radiance field rendered
from a random pose; a discriminator that grows with the resolution scores the picture. No poses of the real pictures
are known: only their distribution. Sections 3.1-3.4 of the paper; the identity (pose) penalty and top-k training are
the authors' code's. Departures: pose targets are our centred (pitch, yaw), which differ from the authors' polar
angles by a bias and a sign that the last layer absorbs; the reduced learning rate of the mapping network, named in
the authors' code, never takes effect there and is left out. Ours, where `smoothness` has weight: smooth normals
(`smoothness`). The authors' code carries no licence: this is written from the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from shapegan_jax.methods.volume_gan.base import VolumeGan
from shapegan_jax.methods.volume_gan.engine import Fakes
from shapegan_jax.methods.volume_gan.settings import GanStage
from shapegan_jax.methods.volume_gan.smoothness import SmoothnessConfig
from shapegan_jax.rng import stream
from shapegan_jax.sections import Schema
from shapegan_jax.types import Array, Key, PyTree, Rendering, Scene


@final
@dataclasses.dataclass(frozen=True)
class PiGan(VolumeGan):
  """A radiance field without light; smooth normals where `smoothness` has weight."""

  smoothness: SmoothnessConfig

  @classmethod
  def own_sections(cls) -> Schema:
    return {"smoothness": SmoothnessConfig}

  @classmethod
  def parts(cls, read: Mapping[str, Any]) -> dict[str, Any]:
    return super().parts(read) | {"smoothness": read["smoothness"]}

  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: GanStage) -> Fakes:
    scene = self.training_scene(key, stage.batch_size)
    codes = self.generator.codes(gen_params, scene.latents)
    rays = self.rays(scene.cameras, stage.resolution)
    rendering = self.renderer(self.sampler(stage.samples), self.compositor())(
      gen_params, codes, scene.cameras, rays, key=stream(key, "samples"), noise_std=anneals.get("density_noise")
    )
    pairs = self.smoothness.normal_pairs(self.field_fn, gen_params, key, codes, rays, None, rendering)
    return Fakes.of(rendering, scene, pairs)

  def extra_losses(self, gen_params: PyTree, fakes: Fakes) -> dict[str, Array]:
    del gen_params
    return self.smoothness.losses(fakes.aux)

  def render(
    self, params: PyTree, scene: Scene, *, resolution: int, truncation: float = 1.0, key: Key | None = None
  ) -> Rendering:
    codes = self.generator.codes(params, scene.latents, truncation=truncation)
    renderer = self.renderer(self.sampler(self.eval_samples), self.compositor(evaluation=True), gradient=True)
    return renderer(params, codes, scene.cameras, self.rays(scene.cameras, resolution), key=key)
