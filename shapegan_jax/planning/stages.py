"""The cost of each stage of a run, from its compiled program, before anything is trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build, resolve
from shapegan_jax.methods.volume_gan.renderer import ACCELERATOR_POINTS
from shapegan_jax.model import with_dependencies
from shapegan_jax.planning.costs import Cost, count, peak_bytes
from shapegan_jax.programs import abstract_arguments, trace_update
from shapegan_jax.rng import root_key
from shapegan_jax.schedules import Stage, steps_of_stages
from shapegan_jax.state import parameter_count

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For processors, and programs that are not run: the disabled optimisations do not affect the memory plan."""

KERNEL_SCRATCH = 800_000
"""Bytes into which a processor's convolutions and matrix products pack their operands, outside the compiler's plan: a
tenth of the small presets' memory, negligible for others. Measured with one thread (`tests/tools/test_plan_memory.py`);
with two, independent networks were observed to take 5 MB."""


@dataclasses.dataclass(frozen=True)
class StagePlan:
  """A stage with all its steps. `cost` is that of one step over all devices, `memory` in bytes per device."""

  stage: Stage
  start: int  # its first step
  steps: int
  rows: int  # of the batch per device (per group of devices, if these share the rays of a picture)
  cost: Cost
  memory: int
  program: jax.stages.Compiled = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class RunPlan:
  """All stages of a config on a mesh. `state` is in bytes per device, `parameters` counts those of the generator."""

  config: Mapping[str, Any]
  method: Method
  mesh: Mesh
  stages: tuple[StagePlan, ...]
  parameters: int
  state: int

  @property
  def memory(self) -> int:
    """The memory of the largest stage per device."""
    return max(stage.memory for stage in self.stages)


class _SomeLights:
  """Stands in for a data set whose lights are fitted: their values affect neither time nor memory."""

  def lights(self) -> np.ndarray:
    return np.concatenate([np.eye(4), -np.eye(4)])


def complete(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """(the config as training would complete it, as far as sizes go; remarks). Opens no data set."""
  config = resolve(dict(config), _SomeLights())
  try:
    return with_dependencies(config)[0], []
  except UserError as error:  # the model that it depends on may be trained later
    return config, [f"{error}; planned for the sizes in config.gan.network"]


def for_accelerators(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config with the points in flight chosen as for an accelerator, if it leaves them to the device."""
  points = config.get("rendering", {}).get("chunk_points")
  return dict(config) if points != 0 else with_points(config, ACCELERATOR_POINTS)


def with_points(config: Mapping[str, Any], points: int) -> dict[str, Any]:
  """The config with this number of points in flight."""
  return {**config, "rendering": {**config["rendering"], "chunk_points": points}}


def plan_run(config: Mapping[str, Any], *, method: Method | None = None, quick: bool = False) -> RunPlan:
  """Compile every stage that the run reaches, for all devices of this process.

  `method` is used instead of the one that the config names. `quick` compiles for counting only: programs would be slow.
  """
  method = method or build(config)
  mesh = parallel.mesh_for(method.stages)
  found: dict[Stage, StagePlan] = {}
  for start, steps, stage in steps_of_stages(method.stages, 0, config["num_steps"]):
    before = found.get(stage) or plan_stage(method, mesh, start, quick=quick)
    found[stage] = dataclasses.replace(before, steps=before.steps + steps)
  if not found:
    raise UserError(f"config.num_steps: {config['num_steps']} steps leave nothing to plan; give one or more")
  state = jax.eval_shape(method.init, root_key(0))
  params = jax.eval_shape(lambda state: method.params_of(state, ema=False), state)
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  return RunPlan(config, method, mesh, tuple(found.values()), parameter_count(params), size)


def plan_stage(method: Method, mesh: Mesh, step: int, *, quick: bool = False) -> StagePlan:
  """The plan of the stage of a step, with a count of 0 steps."""
  stage = method.plan(step)[0]
  arguments = abstract_arguments(method, mesh, step)
  traced = trace_update(method, mesh, stage, arguments)
  on_processor = jax.default_backend() == "cpu"
  program = traced.lower().compile(QUICK if quick and on_processor else None)
  memory = peak_bytes(program) + (KERNEL_SCRATCH if on_processor else 0)
  # The one loop of unknown trip count, marching a ray over a relief, takes about one step per pixel.
  cost = count(traced.jaxpr.jaxpr, rounds=stage.resolution)
  rows = stage.batch_size // mesh.shape[parallel.DATA]
  return StagePlan(stage, step, 0, rows, cost, memory, program)


def step_seconds(run: RunPlan, *, steps: int = 3) -> list[float]:
  """The time of a step of each stage, measured on noise. The planned memory must be available."""
  method, mesh, found = run.method, run.mesh, []
  whole, noise = parallel.replicated(mesh), np.random.default_rng(0)
  key = jax.jit(lambda: root_key(0), out_shardings=whole)()
  state = jax.jit(method.init, out_shardings=whole)(key)
  for plan in run.stages:
    _, like, _, _ = abstract_arguments(method, mesh, plan.start)
    batch = parallel.put_batch(mesh, jax.tree.map(lambda x: noise.uniform(-1, 1, x.shape).astype(x.dtype), like))
    values = {name: np.float32(value) for name, value in method.plan(plan.start)[1].items()}
    anneals = parallel.put_replicated(mesh, values)
    state, _ = jax.block_until_ready(plan.program(state, batch, key, anneals))  # the first step loads the program
    begun = time.perf_counter()
    for _ in range(steps):
      state, _ = plan.program(state, batch, key, anneals)
    jax.block_until_ready(state)
    found.append((time.perf_counter() - begun) / steps)
  return found
