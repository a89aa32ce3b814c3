"""The training loop's test double: a method with four parameters whose pictures are a shaded ball, and its data set.

Run as a program it trains in a process of its own: `python toy_method.py WORKDIR NUM_STEPS [DELAY] [COORDINATOR N ID]`.
Its pictures' pixels are rays, and its step has both kinds of shared work (`share_rays` and `in_micro_batches` of
`parallel`).
"""

import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax import parallel
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.rays import cast_rays, distance_to_depth
from shapegan_jax.numerics import l2_normalize
from shapegan_jax.processes import is_watched, watch
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stage, stage_at
from shapegan_jax.state import ema_update
from shapegan_jax.types import Codes, FieldSamples, Rendering, record


@record
class ToyState:
  step: object
  generator: object
  momentum: object
  ema: object


@dataclasses.dataclass(frozen=True)
class ToyStage(Stage):
  samples: int = 1


@dataclasses.dataclass(frozen=True)
class ToyMethod:
  """Learns the mean colour of the pictures, seen through noise, and a radius. `poison` names a step and what breaks."""

  has_shape = True
  has_surface = False
  uses_data = True

  stages: tuple = ((0, ToyStage(4, 4)), (3, ToyStage(8, 2)))
  poison: tuple = (-1, "loss")
  has_shape, has_surface, uses_data = True, False, True

  def plan(self, step):
    return stage_at(self.stages, step), {"rate": 0.2 / (1 + 0.1 * step)}

  def init(self, key, *, dependencies=None):
    generator = {"offset": jax.random.normal(key, (3,)), "radius": jnp.float32(0.05)}
    return ToyState(
      step=jnp.zeros((), jnp.int32),
      generator=generator,
      momentum=jax.tree.map(jnp.zeros_like, generator),
      ema=jax.tree.map(jnp.copy, generator),
    )

  def params_of(self, state, *, ema=True):
    return state.ema if ema else state.generator

  def update(self, state, batch, key, anneals, *, stage):
    noise = parallel.over_batch(jax.random.normal(stream(key, "latents", state.step), (stage.batch_size, 3)))
    grain = jax.random.normal(stream(key, "grain", state.step), (stage.batch_size, stage.resolution**2, 3))

    def draw(generator, noise, grain):
      return jnp.tanh(generator["offset"][None, None] + 0.3 * noise[:, None] + 0.1 * grain)

    def loss_of(generator):
      fakes = parallel.share_rays(draw, generator, noise, grain)
      means = parallel.in_micro_batches(lambda scale, x: scale[None] * x.mean(1), jnp.ones(3), fakes, count=2)
      color = jnp.mean((means.mean(0) - batch["image"].mean((0, 1, 2))) ** 2)
      radius = jnp.mean((generator["radius"] - 0.08) ** 2)
      return color + radius, {"color": color, "radius": radius}

    grads, metrics = jax.grad(loss_of, has_aux=True)(state.generator)
    at, what = self.poison
    broken = state.step == at
    if what == "loss":
      metrics["color"] = jnp.where(broken, jnp.nan, metrics["color"])
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state.momentum, grads)
    if what == "params":
      momentum["radius"] = jnp.where(broken, jnp.inf, momentum["radius"])
    generator = jax.tree.map(lambda p, m: p - anneals["rate"] * m, state.generator, momentum)
    step = state.step + 1
    return ToyState(step, generator, momentum, ema_update(state.ema, generator, 0.99, step)), metrics

  def sample_latents(self, key, n):
    return jax.random.normal(key, (n, 3))

  def sample_cameras(self, key, n):
    return self.cameras_at(*(jnp.zeros((2, n)) if key is None else 0.2 * jax.random.normal(key, (2, n))))

  def cameras_at(self, yaw, pitch):
    return orbit_cameras(yaw, pitch, fov=jnp.deg2rad(12.0))

  def sample_lights(self, key, n):
    return None

  def codes(self, params, latents, *, truncation=1.0):
    return Codes((truncation * latents,))

  def render(self, params, scene, *, resolution, truncation=1.0, key=None):
    latents, cameras = scene.latents, scene.cameras
    rays = cast_rays(cameras, pixel_grid(resolution, resolution), near=0.88, far=1.12)
    along = jnp.sum(rays.origins * rays.directions, -1)
    inside = along**2 - jnp.sum(rays.origins**2, -1) + params["radius"] ** 2
    distance = jnp.where(inside > 0, -along - jnp.sqrt(jnp.maximum(inside, 1e-12)), rays.far)
    acc = (inside > 0).astype(jnp.float32)
    normals = l2_normalize(rays.origins + distance[..., None] * rays.directions)
    shading = jnp.maximum(normals[..., 2:], 0.0)
    albedo = jax.nn.sigmoid(params["offset"][None] + truncation * latents)[:, None, None] * acc[..., None]
    depth = distance_to_depth(distance, cameras, rays.viewdirs)
    return Rendering(albedo * shading, albedo, shading, normals, depth, distance, acc)

  def query(self, params, latents, points, lights=None, viewdirs=None):
    away = jnp.linalg.norm(points, axis=-1)
    color = jnp.broadcast_to(jax.nn.sigmoid(params["offset"][None] + latents)[:, None], points.shape)
    return FieldSamples(params["radius"] - away, color, -points / away[..., None])


class ToySource:
  """12 coloured squares, each with the depth of a ball; `delay` seconds a picture make a run slow enough to hit."""

  def __init__(self, delay=0.0):
    self.delay = delay
    self.pictures = np.random.default_rng(1).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    x, y = np.meshgrid(np.linspace(-0.105, 0.105, 8), np.linspace(-0.105, 0.105, 8))
    self.mask = x**2 + y**2 < 0.08**2
    self.depth = 1 - np.sqrt(np.maximum(0.08**2 - x**2 - y**2, 0))

  def __len__(self):
    return len(self.pictures)

  def __getitem__(self, index):
    time.sleep(self.delay)
    return {"image": self.pictures[index], "depth": self.depth.astype(np.float32), "mask": self.mask}


def toy_config(num_steps, **changes):
  config = {
    "method": "toy",
    "seed": 3,
    "num_steps": num_steps,
    "data": {"name": "toy", "flip": True, "resize": "legacy"},
    "log_every": 1,
    "preview": {"every": 0, "first": 0, "count": 0, "resolution": 8},
    "checkpoint": {"every": 3, "keep": 2, "asynchronous": True},
    "evaluation": {"every": 0, "samples": 0, "resolution": 16},
  }
  return {**config, **changes}


if __name__ == "__main__":
  from shapegan_jax.train import train

  workdir, num_steps, delay, *cluster = sys.argv[1:]
  if cluster:
    if not is_watched():
      sys.exit(watch())
    parallel.initialize(cluster[0], int(cluster[1]), int(cluster[2]), patience=5)
  train(toy_config(int(num_steps)), workdir, method=ToyMethod(), source=ToySource(float(delay)))
