"""The programs that `benchmarks.speed` times and `tests/test_guards.py` counts: steps, a picture, a slab of a mesh.

All have the published widths. Nothing is computed before a case is created.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import gan2shape, gof, pigan, shadegan, stylegan2
from shapegan_jax.data.pipeline import batch_spec
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build
from shapegan_jax.planning.costs import Cost, count
from shapegan_jax.rng import root_key
from shapegan_jax.schedules import Stage
from shapegan_jax.types import Array, Key, PyTree, Scene

BATCH = 4
WHOLE = 2**40  # points in flight: all at once, so that nothing is recomputed


@dataclasses.dataclass(frozen=True)
class Case:
  """A program `function(*inputs)`; `plain` is the same without rematerialisation, whose operations are the model's."""

  function: Callable[..., PyTree]
  plain: Callable[..., PyTree]
  inputs: tuple[PyTree, ...]
  twin: dict[str, Any] | None = None  # arguments of `torch_twin.Step`
  rounds: int | None = None  # assumed trip count of a loop whose length is not known before

  def executed(self) -> Cost:
    """The operations that the program executes."""
    return count(jax.make_jaxpr(self.function)(*self.inputs).jaxpr, rounds=self.rounds)

  def model(self) -> Cost:
    """The operations of the mathematics."""
    return count(jax.make_jaxpr(self.plain)(*self.inputs).jaxpr, rounds=self.rounds)


def training(module: ModuleType, resolution: int, *, sine: str = "fast", chunk_points: int = 0) -> Case:
  """One update of a published config at batch 4; with the compiler's sine, or other points in flight, to compare."""
  config = module.get_config("bfm")
  config.field.sine, config.rendering.chunk_points = sine, chunk_points
  config.stages.update(
    start=(0,),
    resolution=(resolution,),
    batch_size=(BATCH,),
    samples=(12,) if module is not gof else (9,),
    topk_group=(0,),
    gradient_scale=(1.0,),
    generator_rate=(2e-5,),
    discriminator_rate=(2e-4,),
    fade_first=False,
  )
  method, plain = build(config.to_dict()), build(_unchunked(config).to_dict())
  (stage, anneals), state = method.plan(0), method.init(root_key(0))
  anneals = {name: jnp.float32(value) for name, value in anneals.items()}
  real = _noise(stage)
  twin = None if module is gof else {"shaded": module is shadegan, "resolution": resolution, "batch": BATCH}

  def update(method: Method) -> Callable[..., PyTree]:
    return lambda state, real, key, anneals: method.update(state, real, key, anneals, stage=stage)

  return Case(update(method), update(plain), (state, real, root_key(1), anneals), twin)


def picture(resolution: int) -> Case:
  """One picture of ShadeGAN with albedo, normals and depth, 24 samples a ray and pass."""
  config = shadegan.get_config("bfm")
  method, plain = build(config.to_dict()), build(_unchunked(config).to_dict())
  params = method.init_generator(root_key(0))
  latents, cameras = method.sample_latents(root_key(1), 1), method.sample_cameras(None, 1)

  def render(method: Method) -> Callable[..., PyTree]:
    return lambda params, latents: method.render(params, Scene(latents, cameras), resolution=resolution)

  return Case(render(method), render(plain), (params, latents))


def grid(points: int = 65_536) -> Case:
  """The density of a slab of a mesh's grid."""
  method = build(pigan.get_config("bfm").to_dict())
  params = method.init_generator(root_key(0))
  where = jnp.asarray(np.random.default_rng(0).uniform(-0.12, 0.12, (1, points, 3)), jnp.float32)

  def query(params: PyTree, latents: Array, where: Array) -> Array:
    return method.query(params, latents, where).raw

  return Case(query, query, (params, method.sample_latents(root_key(1), 1), where))


def pictures(resolution: int = 64) -> Case:
  """A step of StyleGAN2 without its lazy regularisers (most steps are without them), batch 8."""
  config = stylegan2.get_config("celeba")
  stylegan2.networks(config, stylegan2.channels(resolution), latent=512)
  config.stages.update(resolution=(resolution,), batch_size=(8,))
  method = build(config.to_dict())
  (stage, anneals), state = method.plan(1), method.init(root_key(0))
  anneals = {name: jnp.float32(value) for name, value in anneals.items()}
  real = _noise(stage)

  def update(state: PyTree, real: PyTree, key: Key, anneals: PyTree) -> PyTree:
    return method.update(state, real, key, anneals, stage=stage)

  return Case(update, update, (state, real, root_key(1), anneals))


def lifting(mode: str) -> Case:
  """A step of one of GAN2Shape's stages on one face at 128 pixels, with a generator of full width."""
  method = build(gan2shape.get_config("celeba").to_dict())
  start, stage = next((start, stage) for start, stage in method.stages if stage.mode == mode)
  state = jax.jit(method.init)(root_key(0))
  anneals = {name: jnp.float32(value) for name, value in method.plan(start)[1].items()}

  def update(state: PyTree, key: Key, anneals: PyTree) -> PyTree:
    return method.update(state, {}, key, anneals, stage=stage)

  # The one loop of unknown trip count, marching a ray over a relief, takes about one step per pixel.
  return Case(update, update, (state, root_key(1), anneals), rounds=stage.resolution)


def _noise(stage: Stage) -> dict[str, Array]:
  """A batch of noise."""
  spec, noise = batch_spec(stage), np.random.default_rng(0)
  return {name: jnp.asarray(noise.uniform(-1, 1, shape), dtype) for name, (shape, dtype) in spec.items()}


def _unchunked(config: ConfigDict) -> ConfigDict:
  config = config.copy_and_resolve_references()
  config.rendering.chunk_points = WHOLE
  return config


CASES: dict[str, Callable[[], Case]] = {
  "pigan32": lambda: training(pigan, 32),
  "pigan64": lambda: training(pigan, 64),
  "shadegan32": lambda: training(shadegan, 32),
  "shadegan64": lambda: training(shadegan, 64),
  "gof32": lambda: training(gof, 32),
  "pigan32_exact_sine": lambda: training(pigan, 32, sine="exact"),
  "pigan32_whole": lambda: training(pigan, 32, chunk_points=WHOLE),
  "stylegan64": pictures,
  "lift_albedo": lambda: lifting("albedo"),
  "lift_encoder": lambda: lifting("encoder"),
  "lift_collect": lambda: lifting("projection"),
  "lift_joint": lambda: lifting("joint"),
  "picture128": lambda: picture(128),
  "picture256": lambda: picture(256),
  "grid65k": grid,
}
