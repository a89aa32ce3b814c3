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
from typing import Any

import jax
import jax.numpy as jnp

from shapegan_jax.methods.volume_gan.engine import Fakes
from shapegan_jax.methods.volume_gan.lighting import Lighting
from shapegan_jax.methods.volume_gan.pigan import PiGan, SmoothnessConfig
from shapegan_jax.methods.volume_gan.settings import GanStage
from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance
from shapegan_jax.networks.surface_net import SurfaceNet, relative_to_distance, surface_inputs
from shapegan_jax.objectives.shape import surface_tracking_loss
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.rendering.volume import Window
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stages, exponential_approach
from shapegan_jax.sections import section
from shapegan_jax.types import Array, Cameras, Key, Lights, PyTree, Rendering, Scene


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
  """Surface tracking. The window's total width runs from `width[0]` to `width[1]` as exp(-rate (step - start)).

  The samples per pass run the same way from the stage's count to `samples`; the generator's rate follows their ratio.
  `perceptual` adds LPIPS to the L1 loss; `inference` renders by tracking too; `net_width` and `net_resolution` shape
  the network.
  """

  enabled: bool = False
  start: int = 5000
  rate: float = 3e-5
  width: tuple[float, float] = (0.24, 0.06)
  samples: int = 6
  weight: float = 1.0
  perceptual: bool = False
  inference: bool = False
  net_width: int = 256
  net_resolution: int = 128


@dataclasses.dataclass(frozen=True)
class ShadeGanStage(GanStage):
  """A stage; `tracked` ones sample inside the window around the predicted surface."""

  tracked: bool = False


@dataclasses.dataclass(frozen=True)
class ShadeGan(PiGan):
  """The method; see the module's docstring."""

  lighting: Lighting
  tracking: TrackingConfig
  surface_net: SurfaceNet
  perceptual: Callable[[Array, Array], Array] | None

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> ShadeGan:
    """From a plain nested config (see `configs/shadegan.py`)."""
    common = cls.common_parts(config)
    tracking = section(TrackingConfig, config.get("tracking"), "tracking")
    perceptual = None
    if tracking.enabled and tracking.perceptual:
      perceptual = partial(perceptual_distance, load_perceptual("vgg16"))
    return cls(
      **{**common, "stages": tracked_stages(common["stages"], tracking)},
      lighting=Lighting.from_config(config),
      tracking=tracking,
      surface_net=SurfaceNet(
        code_size=2 * common["generator"].field.code_size,
        width=tracking.net_width,
        resolution=tracking.net_resolution,
      ),
      perceptual=perceptual,
      smoothness=section(SmoothnessConfig, config.get("smoothness"), "smoothness"),
    )

  def init_generator(self, key: Key) -> PyTree:
    field_key, surface_key = jax.random.split(key)
    params = super().init_generator(field_key)
    if self.tracking.enabled:
      params = {**params, "surface": self.surface_net.init_params(surface_key)["params"]}
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
    rendering = self._render(
      gen_params,
      codes,
      scene.cameras,
      scene.lights,
      resolution=stage.resolution,
      sampler=self.sampler(stage.samples),
      compositor=self.compositor(shader=self.lighting.shader(anneals)),
      key=stream(key, "samples"),
      noise_std=anneals.get("density_noise"),
      window=self._window(predicted, stage.resolution, anneals["window_width"]) if stage.tracked else None,
      gradient=True,
    )
    aux = self.normal_pairs(gen_params, key, codes, scene, rendering)
    if predicted is not None:
      aux |= {"predicted": predicted, "rendered": rendering.distance}
    return Fakes.of(rendering, scene, aux)

  def extra_losses(self, gen_params: PyTree, fakes: Fakes) -> dict[str, Array]:
    losses = super().extra_losses(gen_params, fakes)
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
    self,
    params: PyTree,
    scene: Scene,
    *,
    resolution: int,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    lights = self.lighting.given_or_mean(scene.lights, scene.size)
    codes = self.generator.codes(params, scene.latents, truncation=truncation)
    window = None
    if self.tracking.enabled and self.tracking.inference:
      predicted = self.predict_surface(params, codes, scene.cameras)
      window = self._window(predicted, resolution, jnp.asarray(self.tracking.width[1]))
    return self._render(
      params,
      codes,
      scene.cameras,
      lights,
      resolution=resolution,
      sampler=self.sampler(self.eval_samples),
      compositor=self.compositor(shader=lambertian, last_back=self.rendering.eval_last_back),
      key=key,
      window=window,
      gradient=True,
    )

  def predict_surface(self, params: PyTree, codes: tuple[Array, Array], cameras: Cameras) -> Array:
    """[b, size, size] distance along the ray, relative to [near, far], by the surface network."""
    inputs = surface_inputs(*codes, cameras.yaw, cameras.pitch)
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
