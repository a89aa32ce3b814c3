"""Engine of the staged methods: several networks trained in turns on images that a frozen generator produces.

A run is a sequence of rounds, each a sequence of stages; every stage trains some of the networks with fresh optimisers
("prior", "albedo", "pose_warmup", "encoder", "projection", "joint"; see `gan2shape.method`). The kind of a stage is
static, so its program is compiled once for all rounds. Two numbers vary: `index`, the steps since the stage began, and
`fresh`, which is 1 in the first step of a stage and resets the optimisers' moments inside the program.

Weights are either shared by all instances, of which each step takes the next few (joint training), or
instance-specific; then one step updates every instance, by `vmap`. Instance-specific runs are independent and draw the
same random numbers, so the result for an instance does not depend on the others in its batch.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from shapegan_jax.errors import UserError
from shapegan_jax.methods.gan2shape.engine_settings import (
  TRAINED_NETWORKS,
  AdamConfig,
  ProjectedSamples,
  StagedStage,
  StagedState,
  StageTable,
  StepBatch,
  Targets,
)
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stages, stage_at, stage_start
from shapegan_jax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class StagedMethod(abc.ABC):
  """The engine. A subclass defines the networks, the targets, and the loss or the projection of each kind of stage."""

  uses_data = False  # the loop need not read a data set

  table: StageTable
  stages: Stages[StagedStage]
  optimizer: AdamConfig
  instance_specific: bool

  @abc.abstractmethod
  def init_networks(self, key: Key) -> dict[str, PyTree]:
    """Fresh parameters by the names in `TRAINED_NETWORKS`."""

  @abc.abstractmethod
  def init_targets(
    self, key: Key, networks: dict[str, PyTree], dependencies: Mapping[str, Any]
  ) -> tuple[Targets, PyTree, PyTree]:
    """(targets, estimates, the frozen generator)."""

  @abc.abstractmethod
  def loss(
    self, params: dict[str, PyTree], batch: StepBatch, key: Key, stage: StagedStage
  ) -> tuple[Array, dict[str, Array]]:
    """(the loss of the stage, its terms for the log)."""

  @abc.abstractmethod
  def project(self, params: dict[str, PyTree], batch: StepBatch, key: Key) -> tuple[ProjectedSamples, dict[str, Array]]:
    """New projected samples [k, b] for the pool, and their metrics."""

  def update_estimates(self, state: StagedState, anneals: dict[str, Array], *, stage: StagedStage) -> PyTree:
    """The estimates with which a step begins; by default unchanged."""
    del anneals, stage
    return state.estimates

  def plan(self, step: int) -> tuple[StagedStage, dict[str, float]]:
    """Stage of the step; `rate`, the learning rate; `index`, steps since the stage began; `fresh`, 1 if that is 0."""
    begun = stage_start(self.stages, step)
    index = step - begun
    later = [start for start, _ in self.stages if start > step]
    length = later[0] - begun if later else self.table.last_length
    return stage_at(self.stages, step), {
      "rate": self.optimizer.rate(index, length),
      "index": float(index),
      "fresh": float(index == 0),
    }

  def init(self, key: Key, *, dependencies: Mapping[str, Any] | None = None) -> StagedState:
    """A fresh state.

    Args:
      key: of the run.
      dependencies: "gan", the frozen generator (None: an untrained one of the config's size, enough to trace shapes or
        to try a program); "instances", the `InstanceImages` (None: sampled from the generator); "networks", parameters
        to start from (None: fresh ones).
    """
    given = dict(dependencies or {})
    networks = given.get("networks") or self.init_networks(stream(key, "networks"))
    targets, estimates, gan = self.init_targets(stream(key, "targets"), networks, given)
    count, size = targets.gan_image.shape[0], self.table.resolution
    if not self.instance_specific and count % self.table.images_per_step:
      raise UserError(
        f"{count} images cannot be split into steps of {self.table.images_per_step}; change stages.images_per_step"
      )
    opt = {name: self.optimizer.transformation.init(params) for name, params in networks.items()}
    if self.instance_specific:
      networks, opt = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), (networks, opt))
    pool = (count, self.table.pool, size, size)
    return StagedState(
      step=jnp.zeros((), jnp.int32),
      params=networks,
      opt=opt,
      targets=targets,
      pool=ProjectedSamples(
        jnp.zeros((*pool, 3), jnp.uint8),
        jnp.zeros(pool, jnp.uint8),
        jnp.zeros((*pool[:2], 6)),
        jnp.zeros((*pool[:2], 4)),
      ),
      estimates=estimates,
      gan=gan,
    )

  def update(
    self, state: StagedState, batch: dict[str, Array], key: Key, anneals: dict[str, Array], *, stage: StagedStage
  ) -> tuple[StagedState, dict[str, Array]]:
    """One step of the stage. The batch of the data set is not used: the input images are in the state."""
    del batch
    estimates = self.update_estimates(state, anneals, stage=stage)
    instances, slots = self.batch_indices(state, key, anneals["index"].astype(jnp.int32))
    targets = jax.tree.map(lambda x: x[instances], state.targets)
    samples = jax.tree.map(lambda x: x[instances[:, None], slots[None]], state.pool)
    step_key = stream(key, stage.random_stream, state.step)

    def step_of(
      params: PyTree, opt: PyTree, targets: Targets, samples: ProjectedSamples
    ) -> tuple[dict[str, PyTree], dict[str, PyTree], ProjectedSamples | None, dict[str, Array]]:
      batch = StepBatch(targets, samples, estimates, state.gan)
      return self._train_or_project(params, opt, batch, step_key, anneals, stage)

    if self.instance_specific:
      targets, samples = jax.tree.map(lambda x: x[:, None], (targets, samples))
      params, opt, projected, metrics = jax.vmap(step_of)(state.params, state.opt, targets, samples)
      projected, metrics = jax.tree.map(lambda x: x[:, 0], projected), jax.tree.map(jnp.mean, metrics)
    else:
      params, opt, projected, metrics = step_of(state.params, state.opt, targets, samples)
    pool = state.pool
    if projected is not None:
      pool = jax.tree.map(lambda old, new: old.at[instances[:, None], slots[None]].set(new), pool, projected)
    step = state.step + 1
    return dataclasses.replace(state, step=step, params=params, opt=opt, pool=pool, estimates=estimates), metrics

  def batch_indices(self, state: StagedState, key: Key, index: Array) -> tuple[Array, Array]:
    """(indices [k] of the instances, indices [b] into the pool of each) for step `index` of a stage.

    Both run through random permutations, redrawn after each full pass: one over the instances, one over the pool, of
    which an instance uses `samples` entries per visit. A "projection" stage therefore fills every entry exactly once.
    """
    count, (pool, b) = state.targets.gan_image.shape[0], (self.table.pool, self.table.samples)
    per_step = 1 if self.instance_specific else self.table.images_per_step
    steps_per_pass = 1 if self.instance_specific else count // per_step
    instances = jnp.arange(count)
    if not self.instance_specific:
      order_key = stream(key, "subjects", index // steps_per_pass)
      instances = _part_of_permutation(order_key, count, index % steps_per_pass, per_step)
    visit = index // steps_per_pass
    slots = _part_of_permutation(stream(key, "pool", visit // (pool // b)), pool, visit % (pool // b), b)
    return instances, slots

  def _train_or_project(
    self,
    params: dict[str, PyTree],
    opt: dict[str, PyTree],
    batch: StepBatch,
    key: Key,
    anneals: Mapping[str, Array],
    stage: StagedStage,
  ) -> tuple[dict[str, PyTree], dict[str, PyTree], ProjectedSamples | None, dict[str, Array]]:
    """(parameters, moments, samples for the pool, metrics) after a step on k instances that share weights."""
    names = TRAINED_NETWORKS[stage.mode]
    if not names:
      projected, metrics = self.project(params, batch, key)
      return params, opt, projected, metrics
    loss_of = partial(self._loss_of, others=params, batch=batch, key=key, stage=stage)
    grads, metrics = jax.grad(loss_of, has_aux=True)({name: params[name] for name in names})
    metrics[f"{stage.mode}/gradient_norm"] = optax.tree.norm(grads)
    params, opt = dict(params), dict(opt)
    for name in names:
      moments = jax.tree.map(lambda x: jnp.where(anneals["fresh"] > 0, 0, x).astype(x.dtype), opt[name])
      updates, opt[name] = self.optimizer.transformation.update(grads[name], moments, params[name])
      params[name] = jax.tree.map(lambda p, u: p - anneals["rate"] * u, params[name], updates)
    return params, opt, None, metrics

  def _loss_of(
    self, trained: dict[str, PyTree], *, others: dict[str, PyTree], batch: StepBatch, key: Key, stage: StagedStage
  ) -> tuple[Array, dict[str, Array]]:
    return self.loss({**others, **trained}, batch, key, stage)


def _part_of_permutation(key: Key, count: int, part: Array, size: int) -> Array:
  """[size] indices below `count`: part number `part` of the permutation that `key` gives."""
  return jax.lax.dynamic_slice(jax.random.permutation(key, count), (part * size,), (size,))
