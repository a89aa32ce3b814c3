"""The update of a stage as one compiled program, for training and for planning."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from shapegan_jax import parallel
from shapegan_jax.data.pipeline import batch_spec
from shapegan_jax.methods.base import Method
from shapegan_jax.rng import root_key
from shapegan_jax.schedules import Stage
from shapegan_jax.types import PyTree


def trace_update(method: Method, mesh: Mesh, stage: Stage, arguments: tuple[PyTree, ...]) -> jax.stages.Traced:
  """The update of a stage on a mesh, to be lowered and compiled; the new state reuses the memory of the old one.

  `arguments` are (state, batch, key, anneals), on the devices or as `abstract_arguments`.
  """
  sharding = parallel.replicated(mesh)
  update = jax.jit(method.update, static_argnames="stage", donate_argnums=0, out_shardings=sharding)
  with jax.set_mesh(mesh):
    return update.trace(*arguments, stage=stage)


def abstract_arguments(method: Method, mesh: Mesh, step: int) -> tuple[PyTree, ...]:
  """(state, batch, key, anneals) of the update at `step`, as shapes with shardings: nothing is allocated."""
  stage, plan = method.plan(step)
  whole, cut = parallel.replicated(mesh), parallel.batch_sharded(mesh)
  key = jax.eval_shape(lambda: root_key(0))
  spec = batch_spec(stage, uses_data=method.uses_data)
  batch = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=cut) for name, (shape, dtype) in spec.items()}
  anneals = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in plan}
  state, key, anneals = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), (jax.eval_shape(method.init, key), key, anneals)
  )
  return state, batch, key, anneals


def stage_words(stage: Stage) -> str:
  """A stage in a line: its size, then the fields that differ from the defaults of its class."""
  fields = [f for f in dataclasses.fields(stage) if f.name not in ("resolution", "batch_size")]
  odd = {f.name: getattr(stage, f.name) for f in fields if getattr(stage, f.name) != f.default}
  named = [name if value is True else f"{name} {value}" for name, value in odd.items()]
  return ", ".join([f"{stage.resolution}x{stage.resolution}", f"batch {stage.batch_size}", *named])
