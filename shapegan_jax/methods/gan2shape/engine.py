"""Engine of the staged methods: several networks that learn in turns from pictures which a frozen generator corrects.

A run is rounds of stages, each of which trains some of the networks with optimisers of its own ("prior" and "albedo",
"reading", "encoder", "collect", "joint"; see `gan2shape.method`). A stage's kind is a static program, compiled once
for all rounds; what is left of a step is the number `index` of steps since its stage began, and `fresh`, which is 1 in
a stage's first step and sets the moments of the optimisers that begin there to zero, inside the program.

Either one set of weights serves all subjects, of which each step takes the next few ("joint"), or each subject has
weights of its own ("instance") and a step is one step of every subject, mapped over them. Instances know nothing of one
another and draw the same random numbers, so a subject's result does not depend on the others it was trained beside.
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
  TRAINED,
  AdamConfig,
  RoundTable,
  Samples,
  StagedStage,
  StagedState,
  Targets,
  Work,
)
from shapegan_jax.rng import stream
from shapegan_jax.schedules import Stages, stage_at, stage_start
from shapegan_jax.types import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class StagedMethod(abc.ABC):
  """The engine. A method makes networks and targets, and says what each kind of stage minimises or collects."""

  uses_data = False  # the loop need not read pictures

  table: RoundTable
  stages: Stages[StagedStage]
  optimizer: AdamConfig
  instance: bool

  @abc.abstractmethod
  def init_networks(self, key: Key) -> dict[str, PyTree]:
    """Fresh parameters by the names in `TRAINED`."""

  @abc.abstractmethod
  def init_targets(
    self, key: Key, networks: dict[str, PyTree], dependencies: Mapping[str, Any]
  ) -> tuple[Targets, PyTree, PyTree]:
    """(targets, memory, the frozen generator)."""

  @abc.abstractmethod
  def loss(self, params: dict[str, PyTree], work: Work, key: Key, stage: StagedStage) -> tuple[Array, dict[str, Array]]:
    """(what the stage minimises, its parts for the log)."""

  @abc.abstractmethod
  def collect(self, params: dict[str, PyTree], work: Work, key: Key) -> tuple[Samples, dict[str, Array]]:
    """New samples [k, b] for the pool, and what to log of them."""

  def remember(self, state: StagedState, anneals: dict[str, Array], *, stage: StagedStage) -> PyTree:
    """The memory with which a step begins; here what it was."""
    del anneals, stage
    return state.memory

  def plan(self, step: int) -> tuple[StagedStage, dict[str, float]]:
    """Stage of the step; `rate`, the learning rate; `index`, steps since its stage began; `fresh`, 1 if none."""
    begun = stage_start(self.stages, step)
    index = step - begun
    later = [start for start, _ in self.stages if start > step]
    length = later[0] - begun if later else self.table.last
    return stage_at(self.stages, step), {
      "rate": self.optimizer.rate(index, length),
      "index": float(index),
      "fresh": float(index == 0),
    }

  def init(self, key: Key, *, dependencies: Mapping[str, Any] | None = None) -> StagedState:
    """A fresh state.

    `dependencies`: "gan", the frozen generator (None: an untrained one of the config's size, which is good for shapes
    and for trying a program out); "subjects", the `Subjects` (None: the generator draws them); "networks", parameters
    to start from instead of fresh ones.
    """
    given = dict(dependencies or {})
    networks = given.get("networks") or self.init_networks(stream(key, "networks"))
    targets, memory, gan = self.init_targets(stream(key, "targets"), networks, given)
    count, size = targets.rendition.shape[0], self.table.resolution
    if not self.instance and count % self.table.images_per_step:
      raise UserError(
        f"{count} subjects cannot be taken {self.table.images_per_step} at a time; change images_per_step"
      )
    opt = {name: self.optimizer.directions.init(params) for name, params in networks.items()}
    if self.instance:
      networks, opt = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), (networks, opt))
    pool = (count, self.table.pool, size, size)
    return StagedState(
      step=jnp.zeros((), jnp.int32),
      params=networks,
      opt=opt,
      targets=targets,
      pool=Samples(
        jnp.zeros((*pool, 3), jnp.uint8),
        jnp.zeros(pool, jnp.uint8),
        jnp.zeros((*pool[:2], 6)),
        jnp.zeros((*pool[:2], 4)),
      ),
      memory=memory,
      gan=gan,
    )

  def update(
    self, state: StagedState, batch: dict[str, Array], key: Key, anneals: dict[str, Array], *, stage: StagedStage
  ) -> tuple[StagedState, dict[str, Array]]:
    """One step of the stage. The batch of the data set is not looked at: the subjects are in the state."""
    del batch
    memory = self.remember(state, anneals, stage=stage)
    who, slots = self._turn(state, key, anneals["index"].astype(jnp.int32))
    targets = jax.tree.map(lambda x: x[who], state.targets)
    samples = jax.tree.map(lambda x: x[who[:, None], slots[None]], state.pool)
    step_key = stream(key, stage.mode, state.step)

    def advance(params: PyTree, opt: PyTree, targets: Targets, samples: Samples) -> tuple[Any, ...]:
      return self._advance(params, opt, Work(targets, samples, memory, state.gan), step_key, anneals, stage)

    if self.instance:
      targets, samples = jax.tree.map(lambda x: x[:, None], (targets, samples))
      params, opt, made, metrics = jax.vmap(advance)(state.params, state.opt, targets, samples)
      made, metrics = jax.tree.map(lambda x: x[:, 0], made), jax.tree.map(jnp.mean, metrics)
    else:
      params, opt, made, metrics = advance(state.params, state.opt, targets, samples)
    pool = state.pool
    if made is not None:
      pool = jax.tree.map(lambda old, new: old.at[who[:, None], slots[None]].set(new), pool, made)
    step = state.step + 1
    return dataclasses.replace(state, step=step, params=params, opt=opt, pool=pool, memory=memory), metrics

  def _turn(self, state: StagedState, key: Key, index: Array) -> tuple[Array, Array]:
    """(the subjects [k] whose turn it is, the places [b] in the pool of each) in step `index` of a stage.

    Subjects come in an order drawn anew each time that all had their turn; so do the places of the pool, of which a
    subject uses up `samples` a turn. A "collect" stage therefore fills every place once.
    """
    count, (pool, b) = state.targets.rendition.shape[0], (self.table.pool, self.table.samples)
    each = 1 if self.instance else self.table.images_per_step
    turns = 1 if self.instance else count // each
    who = jnp.arange(count)
    if not self.instance:
      who = _next_few(stream(key, "subjects", index // turns), count, index % turns, each)
    visit = index // turns
    slots = _next_few(stream(key, "pool", visit // (pool // b)), pool, visit % (pool // b), b)
    return who, slots

  def _advance(
    self,
    params: dict[str, PyTree],
    opt: dict[str, PyTree],
    work: Work,
    key: Key,
    anneals: Mapping[str, Array],
    stage: StagedStage,
  ) -> tuple[dict[str, PyTree], dict[str, PyTree], Samples | None, dict[str, Array]]:
    """(parameters, moments, samples for the pool, metrics) after a step on k subjects that share weights."""
    names = TRAINED[stage.mode]
    if not names:
      made, metrics = self.collect(params, work, key)
      return params, opt, made, metrics
    loss_of = partial(self._loss_of, others=params, work=work, key=key, stage=stage)
    grads, metrics = jax.grad(loss_of, has_aux=True)({name: params[name] for name in names})
    metrics[f"{stage.mode}/gradient_norm"] = optax.tree.norm(grads)
    params, opt = dict(params), dict(opt)
    for name in names:
      moments = jax.tree.map(lambda x: jnp.where(anneals["fresh"] > 0, 0, x).astype(x.dtype), opt[name])
      directions, opt[name] = self.optimizer.directions.update(grads[name], moments, params[name])
      params[name] = jax.tree.map(lambda p, d: p - anneals["rate"] * d, params[name], directions)
    return params, opt, None, metrics

  def _loss_of(
    self, trained: dict[str, PyTree], *, others: dict[str, PyTree], work: Work, key: Key, stage: StagedStage
  ) -> tuple[Array, dict[str, Array]]:
    return self.loss({**others, **trained}, work, key, stage)


def _next_few(key: Key, count: int, turn: Array, each: int) -> Array:
  """[each] numbers below `count`: those of turn `turn` in an order that `key` draws."""
  return jax.lax.dynamic_slice(jax.random.permutation(key, count), (turn * each,), (each,))
