"""ShadeGAN: a shading-guided generative implicit model (Pan et al., NeurIPS 2021, arXiv 2110.15678).

pi-GAN's field, read as density and albedo. The composited density gradient is the pixel's normal; the composited
albedo is shaded under a light drawn from a prior (Lambertian, section 3.2), so that only true shapes look real under
every light. A surface network predicts, from the codes and the pose, how far the surface is along each ray; once it
is good, rays are sampled in a window around its answer that shrinks while the samples become fewer (section 3.3).

Departures from the authors' code: the background is composited after shading (theirs would be shaded when it is not
black); the mapping and surface networks' own learning rates, named in the authors' code, never take effect there and
are left out; poses are our centred (pitch, yaw) and reach the surface network as the authors' polar angles.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp

from shapegan_jax.methods.volume_gan.base import VolumeGan
from shapegan_jax.methods.volume_gan.engine import Fakes
from shapegan_jax.methods.volume_gan.lighting import LightConfig, Lighting
from shapegan_jax.methods.volume_gan.settings import GanStage
from shapegan_jax.methods.volume_gan.smoothness import SmoothnessConfig
from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance
from shapegan_jax.networks.surface_net import SurfaceNet, relative_to_distance, surface_inputs
from shapegan_jax.objectives.shape import surface_tracking_loss
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.rendering.volume import Window
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stages, exponential_approach
from shapegan_jax.sections import Count, Natural, Schema, Weight
from shapegan_jax.types import Array, Cameras, Key, Lights, PyTree, Rendering, Scene


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
  """Surface tracking. The window's total width runs from `width[0]` to `width[1]` as exp(-rate (step - start)).

  The samples per pass run the same way from the stage's count to `samples`; the generator's rate follows their ratio.
  `perceptual` adds LPIPS to the L1 loss; `inference` renders by tracking too; `net_width` and `net_resolution` shape
  the network.
  """

  enabled: bool = False
  start: Natural = 5000
  rate: Weight = 3e-5
  width: tuple[Weight, Weight] = (0.24, 0.06)
  samples: Count = 6
  weight: Weight = 1.0
  perceptual: bool = False
  inference: bool = False
  net_width: Count = 256
  net_resolution: Count = 128


@dataclasses.dataclass(frozen=True)
class ShadeGanStage(GanStage):
  """A stage; `tracked` ones sample inside the window around the predicted surface."""

  tracked: bool = False


@final
@dataclasses.dataclass(frozen=True)
class ShadeGan(VolumeGan):
  """A density and an albedo, shaded under random lights; surface tracking where `tracking.enabled`.

  With tracking the generator's parameters also have {"surface": ...}, the surface network's.
  """

  lighting: Lighting
  tracking: TrackingConfig
  surface_net: SurfaceNet
  perceptual: Callable[[Array, Array], Array] | None
  smoothness: SmoothnessConfig

  @classmethod
  def own_sections(cls) -> Schema:
    return {"lights": LightConfig, "tracking": TrackingConfig, "smoothness": SmoothnessConfig}

  @classmethod
  def parts(cls, read: Mapping[str, Any]) -> dict[str, Any]:
    common, tracking = super().parts(read), read["tracking"]
    perceptual = None
    if tracking.enabled and tracking.perceptual:
      perceptual = partial(perceptual_distance, load_perceptual("vgg16"))
    return common | {
      "stages": tracked_stages(common["stages"], tracking),
      "lighting": Lighting.of(read["lights"]),
      "tracking": tracking,
      "surface_net": SurfaceNet(
        code_size=sum(map(math.prod, read["generator"].code_shapes)),
        width=tracking.net_width,
        resolution=tracking.net_resolution,
      ),
      "perceptual": perceptual,
      "smoothness": read["smoothness"],
    }

  @property
  def zooms(self) -> bool:
    """Not where pictures are sampled around a surface that was foreseen for one field of view."""
    return not (self.tracking.enabled and self.tracking.inference)

  def init_generator(self, key: Key) -> PyTree:
    params = super().init_generator(stream(key, "generator"))
    if self.tracking.enabled:
      params = {**params, "surface": self.surface_net.init_params(stream(key, "surface"))["params"]}
    return params

  def plan(self, step: int) -> tuple[ShadeGanStage, dict[str, float]]:
    stage, anneals = super().plan(step)
    anneals |= self.lighting.anneals(step)
    if self.tracking.enabled:
      (widest, narrowest), tracking = self.tracking.width, self.tracking
      anneals["window_width"] = exponential_approach(
        step, start=tracking.start, rate=tracking.rate, initial=widest, final=narrowest
      )
      most = max(s.samples for _, s in self.stages)
      if stage.tracked:
        # The released code scales the generator's rate with its samples, at every step.
        anneals["generator_rate"] *= stage.samples / most
    return stage, anneals

  def sample_lights(self, key: Key | None, n: int) -> Lights:
    return self.lighting.sample(key, n)

  def generate(self, gen_params: PyTree, key: Key, anneals: Mapping[str, Array], *, stage: ShadeGanStage) -> Fakes:
    scene = self.training_scene(key, stage.batch_size)
    codes = self.generator.codes(gen_params, scene.latents)
    predicted = self.predict_surface(gen_params, codes, scene.cameras) if self.tracking.enabled else None
    rays = self.rays(scene.cameras, stage.resolution)
    compositor = self.compositor(shader=self.lighting.shader(anneals))
    rendering = self.renderer(self.sampler(stage.samples), compositor, gradient=True)(
      gen_params,
      codes,
      scene.cameras,
      rays,
      scene.lights,
      key=stream(key, "samples"),
      noise_std=anneals.get("density_noise"),
      window=self._window(predicted, stage.resolution, anneals["window_width"]) if stage.tracked else None,
    )
    aux = self.smoothness.normal_pairs(self.field_fn, gen_params, key, codes, rays, scene.lights, rendering)
    if predicted is not None:
      aux |= {"predicted": predicted, "rendered": rendering.distance}
    return Fakes.of(rendering, scene, aux)

  def extra_losses(self, gen_params: PyTree, fakes: Fakes) -> dict[str, Array]:
    del gen_params
    losses = self.smoothness.losses(fakes.aux)
    if not self.tracking.enabled:
      return losses
    loss = surface_tracking_loss(
      fakes.aux["predicted"],
      fakes.aux["rendered"],
      near=self.cameras.near,
      far=self.cameras.far,
      perceptual_fn=self.perceptual,
    )
    return losses | {"tracking": self.tracking.weight * loss}

  def render(
    self, params: PyTree, scene: Scene, *, resolution: int, truncation: float = 1.0, key: Key | None = None
  ) -> Rendering:
    lights = self.lighting.given_or_mean(scene.lights, scene.size)
    codes = self.generator.codes(params, scene.latents, truncation=truncation)
    window = None
    if self.tracking.enabled and self.tracking.inference:
      predicted = self.predict_surface(params, codes, scene.cameras)
      window = self._window(predicted, resolution, jnp.asarray(self.tracking.width[1]))
    compositor = self.compositor(shader=lambertian, evaluation=True)
    return self.renderer(self.sampler(self.eval_samples), compositor, gradient=True)(
      params, codes, scene.cameras, self.rays(scene.cameras, resolution), lights, key=key, window=window
    )

  def predict_surface(self, params: PyTree, codes: tuple[Array, ...], cameras: Cameras) -> Array:
    """[b, size, size] distance along the ray, relative to [near, far], by the surface network."""
    inputs = surface_inputs(codes, cameras.yaw, cameras.pitch)
    return self.surface_net.apply({"params": params["surface"]}, *inputs)

  def _window(self, predicted: Array, resolution: int, width: Array) -> Window:
    near, far = self.cameras.near, self.cameras.far
    distance = relative_to_distance(jax.lax.stop_gradient(predicted), near=near, far=far, resolution=resolution)
    return Window(centre=distance.reshape(distance.shape[0], -1), width=width)


def tracked_stages(stages: Stages[GanStage], tracking: TrackingConfig) -> Stages[ShadeGanStage]:
  """The stages cut wherever the tracked number of samples changes: round((most - least) exp(-rate x) + least)."""
  rows: list[tuple[int, ShadeGanStage]] = []
  for i, (start, stage) in enumerate(stages):
    end = stages[i + 1][0] if i + 1 < len(stages) else math.inf
    plain = ShadeGanStage(**dataclasses.asdict(stage))
    if not tracking.enabled or end <= tracking.start + 1:
      rows.append((start, plain))
      continue
    if start <= tracking.start:
      rows.append((start, plain))
    most, least = stage.samples, tracking.samples
    begins = tracking.start + 1  # tracking is on for steps after `start`, as published
    for samples in range(most, least - 1, -1):
      # The step at which the count falls below `samples`.
      ends = math.inf
      if samples > least:
        ends = tracking.start + math.ceil(math.log((most - least) / (samples - 0.5 - least)) / tracking.rate)
      first = max(start, begins)
      if first < min(end, ends):
        rows.append((first, dataclasses.replace(plain, samples=samples, tracked=True)))
      begins = ends
  return tuple(rows)
