"""The staged engine, tried on five vectors that learn the mean colour of their subjects."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.methods.gan2shape.engine import StagedMethod
from shapegan_jax.methods.gan2shape.engine_settings import (
  TRAINED,
  AdamConfig,
  RoundTable,
  Samples,
  StagedStage,
  Subjects,
  Targets,
)

TABLE = RoundTable(
  resolution=2,
  prior=1,
  albedo=(3, 2),
  encoder=(2, 1),
  joint=(4, 3),
  flip_albedo=(False, True),
  flip_joint=(True, False),
  images_per_step=2,
  samples=2,
  pool=4,
)
ADAM = AdamConfig(learning_rate=0.1, b1=0.8, b2=0.9, weight_decay=0.3)


@dataclasses.dataclass(frozen=True)
class Toy(StagedMethod):
  """Loss: squared distance of each trained vector from the subjects' mean colour, and a random push of size `noise`."""

  noise: float = 0.0

  def init_networks(self, key):
    return {name: jax.random.normal(key, (3,)) + i for i, name in enumerate(("depth", *sorted(set(sum_of_names()))))}

  def init_targets(self, key, networks, dependencies):
    subjects = dependencies["subjects"]
    return Targets(subjects, subjects.image, subjects.mask), jnp.zeros(()), {"frozen": jnp.ones(3)}

  def loss(self, params, work, key, stage):
    mean = work.targets.subjects.image.mean((0, 1, 2))
    push = self.noise * jax.random.normal(key, (3,))
    seen = work.samples.unpacked()[0].mean()
    terms = {name: jnp.sum((params[name] - mean) ** 2 + push * params[name]) for name in TRAINED[stage.mode]}
    return sum(terms.values()), terms | {"seen": seen}

  def collect(self, params, work, key):
    image = jnp.repeat(work.targets.subjects.image[:, None], self.table.samples, 1)
    each = image.shape[:2]
    return Samples.of(image, jnp.ones(image.shape[:-1]), jnp.zeros((*each, 6)), jnp.zeros((*each, 4))), {}


def sum_of_names():
  return [name for names in TRAINED.values() for name in names if name != "depth"]


def toy(*, instance=False, subjects=4, noise=0.0, table=TABLE):
  table = dataclasses.replace(table, images_per_step=1) if instance else table
  stages = table.expand(1 if instance else subjects)
  return Toy(table=table, stages=stages, optimizer=ADAM, instance=instance, noise=noise)


def subjects(n, rng):
  image = rng.uniform(-1, 1, (n, 2, 2, 3)).astype(np.float32)
  return Subjects(jnp.asarray(image), jnp.zeros((n, 5)), jnp.ones((n, 2, 2)))


def run(method, state, key, steps):
  """The states after each step."""
  update = jax.jit(method.update, static_argnames="stage")
  states = [state]
  for step in steps:
    stage, plan = method.plan(step)
    anneals = {name: np.float32(value) for name, value in plan.items()}
    state, metrics = update(state, {}, key, anneals, stage=stage)
    states.append(state)
  return states, metrics


def test_the_table_becomes_stages_that_recur():
  rows = TABLE.expand(4)
  modes = [(start, stage.mode, stage.flip, stage.batch_size) for start, stage in rows]
  # A collection visits 4 subjects, 2 at a time, and makes 2 of the 4 samples of each at every visit.
  assert modes == [
    (0, "prior", False, 2),
    (1, "albedo", False, 2),
    (4, "encoder", False, 4),
    (6, "collect", False, 4),
    (10, "joint", True, 4),
    (14, "albedo", True, 2),
    (16, "encoder", False, 4),
    (17, "collect", False, 4),
    (21, "joint", False, 4),
  ]
  assert TABLE.length(4) == 24
  assert rows[2][1] == rows[6][1], "a stage that recurs is the same program"
  assert dataclasses.replace(TABLE, prior=0).expand(4)[0] == (0, StagedStage(2, 2, "albedo", False))
  reading = dataclasses.replace(TABLE, reading=(2, 0))
  assert [stage.mode for _, stage in reading.expand(4)][:4] == ["prior", "albedo", "reading", "encoder"]
  assert reading.length(4) == TABLE.length(4) + 2, "in the first round only"
  method = toy()
  assert [method.plan(step)[1]["fresh"] for step in range(5)] == [1, 1, 0, 0, 1]
  assert [method.plan(step)[1]["index"] for step in range(5)] == [0, 0, 1, 2, 0]


def test_the_rate_rises_and_falls_within_each_stage():
  method = dataclasses.replace(toy(), optimizer=AdamConfig(learning_rate=8.0, fall=0.5))
  rates = [method.plan(step)[1]["rate"] for step in range(24)]
  assert rates[6:14] == [8, 8, 8, 4] * 2, "collect and joint, of 4 steps each"
  assert rates[-3:] == [8, 8, pytest.approx(16 / 3)], "the last stage too"
  method = dataclasses.replace(toy(), optimizer=AdamConfig(learning_rate=8.0, rise=0.5, fall=0.5))
  assert [method.plan(step)[1]["rate"] for step in range(6, 10)] == [4, 8, 8, 4], "and rises at its beginning"
  assert {toy().plan(step)[1]["rate"] for step in range(24)} == {ADAM.learning_rate}


@pytest.mark.parametrize(
  ("changes", "count", "words"),
  [
    ({"pool": 5}, 4, "pool: 5 is not a multiple"),
    ({"flip_joint": (True,)}, 4, "one entry for each round"),
    ({}, 5, "images_per_step: 2 does not divide the number of subjects, 5"),
  ],
)
def test_tables_that_cannot_be_are_refused(changes, count, words):
  with pytest.raises(UserError, match=words):
    dataclasses.replace(TABLE, **changes).expand(count)


def test_a_stage_trains_its_networks_by_pytorchs_adam_and_no_others(rng, key):
  method, given = toy(subjects=2), subjects(2, rng)
  begun = method.init(key, dependencies={"subjects": given})
  first = next(start for start, stage in method.stages if stage.mode == "joint")
  states, _ = run(method, begun, key, range(first, first + 3))
  target = np.asarray(given.image, np.float64).mean((0, 1, 2))
  for name in begun.params:
    p, m, v = np.asarray(begun.params[name], np.float64), 0.0, 0.0
    for t, state in enumerate(states[1:], 1):
      if name in TRAINED["joint"]:
        gradient = 2 * (p - target) + ADAM.weight_decay * p
        m = ADAM.b1 * m + (1 - ADAM.b1) * gradient
        v = ADAM.b2 * v + (1 - ADAM.b2) * gradient**2
        p = p - ADAM.learning_rate * (m / (1 - ADAM.b1**t)) / (np.sqrt(v / (1 - ADAM.b2**t)) + 1e-8)
      np.testing.assert_allclose(state.params[name], p, rtol=2e-5, atol=1e-6)


def test_moments_begin_anew_with_a_stage_and_only_then(rng, key):
  method, given = toy(subjects=2), subjects(2, rng)
  states, _ = run(method, method.init(key, dependencies={"subjects": given}), key, range(TABLE.length(2)))
  target = np.asarray(given.image, np.float64).mean((0, 1, 2))
  for step, (before, after) in enumerate(itertools.pairwise(states)):
    stage, plan = method.plan(step)
    for name in TRAINED[stage.mode]:
      p = np.asarray(before.params[name], np.float64)
      gradient = 2 * (p - target) + ADAM.weight_decay * p
      # With moments of 0 the first step goes as far as the rate in each direction.
      anew = np.allclose(after.params[name], p - ADAM.learning_rate * np.sign(gradient), atol=1e-5)
      assert anew == bool(plan["fresh"]), (step, name)
      assert int(after.opt[name][1].count) == plan["index"] + 1


def test_every_subject_has_its_turn_and_every_place_of_the_pool_is_filled_once(rng, key):
  method, given = toy(subjects=4), subjects(4, rng)
  state = method.init(key, dependencies={"subjects": given})
  turns = [method._turn(state, key, jnp.int32(i)) for i in range(8)]
  for first in range(0, 8, 2):
    assert sorted(np.concatenate([who for who, _ in turns[first : first + 2]])) == [0, 1, 2, 3]
    np.testing.assert_array_equal(turns[first][1], turns[first + 1][1])
  for first in (0, 4):
    assert sorted(np.concatenate([slots for _, slots in turns[first : first + 4 : 2]])) == [0, 1, 2, 3]
  assert any((turns[0][0] != turns[i][0]).any() for i in (2, 4, 6)), "the order is drawn anew"
  start = next(start for start, stage in method.stages if stage.mode == "collect")
  states, _ = run(method, state, key, range(start, start + 4))
  image, mask = states[-1].pool.unpacked()
  np.testing.assert_allclose(image, jnp.repeat(given.image[:, None], 4, 1), atol=1 / 255 + 1e-6)
  np.testing.assert_array_equal(mask, 1)
  assert (np.asarray(states[-2].pool.mask) == 0).any()


def test_an_instance_does_not_depend_on_those_beside_it(rng, key):
  method, three = toy(instance=True, noise=0.3), subjects(3, rng)
  steps = range(method.table.length())
  together, _ = run(method, method.init(key, dependencies={"subjects": three}), key, steps)
  alone = jax.tree.map(lambda x: x[1:2], three)
  alone, _ = run(method, method.init(key, dependencies={"subjects": alone}), key, steps)
  parts = lambda state: (state.params, state.opt, state.pool)  # noqa: E731
  for a, b in zip(jax.tree.leaves(parts(together[-1])), jax.tree.leaves(parts(alone[-1])), strict=True):
    np.testing.assert_allclose(a[1:2], b, rtol=1e-6, atol=1e-7)
  others = np.asarray(together[-1].params["depth"])
  assert not np.allclose(others[0], others[1])


def test_networks_that_are_handed_in_are_what_a_run_starts_from(rng, key):
  method = toy(instance=True)
  networks = method.init_networks(jax.random.key(5))
  state = method.init(key, dependencies={"subjects": subjects(2, rng), "networks": networks})
  for name, params in networks.items():
    np.testing.assert_array_equal(state.params[name], jnp.stack([params, params]))
  with pytest.raises(UserError, match="3 subjects cannot be taken 2 at a time"):
    toy().init(key, dependencies={"subjects": subjects(3, rng)})
