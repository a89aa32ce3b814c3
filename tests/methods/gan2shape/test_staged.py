"""The staged engine, tested with five vectors that learn the mean colour of the images."""

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
  TRAINED_NETWORKS,
  AdamConfig,
  InstanceImages,
  ProjectedSamples,
  StagedStage,
  StageTable,
  Targets,
)
from shapegan_jax.rng import stream

TABLE = StageTable(
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
  """Loss: squared distance of each trained vector from the images' mean colour, and a random linear term of `noise`."""

  noise: float = 0.0

  def init_networks(self, key):
    names = sorted({name for names in TRAINED_NETWORKS.values() for name in names} - {"depth"})
    return {name: jax.random.normal(key, (3,)) + i for i, name in enumerate(("depth", *names))}

  def init_targets(self, key, networks, dependencies):
    instances = dependencies["instances"]
    return Targets(instances, instances.image, instances.mask), jnp.zeros(()), {"frozen": jnp.ones(3)}

  def loss(self, params, batch, key, stage):
    mean = batch.targets.instances.image.mean((0, 1, 2))
    slope = self.noise * jax.random.normal(key, (3,))
    samples_mean = batch.samples.unpack()[0].mean()
    terms = {name: jnp.sum((params[name] - mean) ** 2 + slope * params[name]) for name in TRAINED_NETWORKS[stage.mode]}
    return sum(terms.values()), terms | {"samples_mean": samples_mean}

  def project(self, params, batch, key):
    image = jnp.repeat(batch.targets.instances.image[:, None], self.table.samples, 1)
    pose = jnp.zeros((*image.shape[:2], 6)), jnp.zeros((*image.shape[:2], 4))
    return ProjectedSamples.pack(image, jnp.ones(image.shape[:-1]), *pose), {}


def toy(*, instance_specific=False, images=4, noise=0.0, table=TABLE):
  table = dataclasses.replace(table, images_per_step=1) if instance_specific else table
  stages = table.expand(1 if instance_specific else images)
  return Toy(table=table, stages=stages, optimizer=ADAM, instance_specific=instance_specific, noise=noise)


def random_instances(n, rng):
  image = rng.uniform(-1, 1, (n, 2, 2, 3)).astype(np.float32)
  return InstanceImages(jnp.asarray(image), jnp.zeros((n, 5)), jnp.ones((n, 2, 2)))


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


def test_the_table_expands_to_repeated_stages():
  rows = TABLE.expand(4)
  modes = [(start, stage.mode, stage.flip, stage.batch_size) for start, stage in rows]
  # A projection stage visits 4 images, 2 at a time, and produces 2 of the 4 samples of each per visit.
  assert modes == [
    (0, "prior", False, 2),
    (1, "albedo", False, 2),
    (4, "encoder", False, 4),
    (6, "projection", False, 4),
    (10, "joint", True, 4),
    (14, "albedo", True, 2),
    (16, "encoder", False, 4),
    (17, "projection", False, 4),
    (21, "joint", False, 4),
  ]
  assert TABLE.total_steps(4) == 24
  assert rows[2][1] == rows[6][1], "repeated stages share one program"
  assert dataclasses.replace(TABLE, prior=0).expand(4)[0] == (0, StagedStage(2, 2, "albedo", False))
  with_warmup = dataclasses.replace(TABLE, pose_warmup=(2, 0))
  assert [stage.mode for _, stage in with_warmup.expand(4)][:4] == ["prior", "albedo", "pose_warmup", "encoder"]
  assert with_warmup.total_steps(4) == TABLE.total_steps(4) + 2, "in the first round only"
  method = toy()
  assert [method.plan(step)[1]["fresh"] for step in range(5)] == [1, 1, 0, 0, 1]
  assert [method.plan(step)[1]["index"] for step in range(5)] == [0, 0, 1, 2, 0]


def test_the_learning_rate_has_a_warmup_and_a_cooldown_in_each_stage():
  method = dataclasses.replace(toy(), optimizer=AdamConfig(learning_rate=8.0, cooldown=0.5))
  rates = [method.plan(step)[1]["rate"] for step in range(24)]
  assert rates[6:14] == [8, 8, 8, 4] * 2, "projection and joint, of 4 steps each"
  assert rates[-3:] == [8, 8, pytest.approx(16 / 3)], "the last stage too"
  method = dataclasses.replace(toy(), optimizer=AdamConfig(learning_rate=8.0, warmup=0.5, cooldown=0.5))
  assert [method.plan(step)[1]["rate"] for step in range(6, 10)] == [4, 8, 8, 4], "with a warmup"
  assert {toy().plan(step)[1]["rate"] for step in range(24)} == {ADAM.learning_rate}


@pytest.mark.parametrize(
  ("changes", "count", "words"),
  [
    ({"pool": 5}, 4, "pool: 5 is not a multiple"),
    ({"flip_joint": (True,)}, 4, "one entry per round"),
    ({}, 5, "images_per_step: 2 does not divide the number of images, 5"),
  ],
)
def test_invalid_tables_are_refused(changes, count, words):
  with pytest.raises(UserError, match=words):
    dataclasses.replace(TABLE, **changes).expand(count)


def test_a_stage_trains_only_its_networks_with_pytorchs_adam(rng, key):
  method, given = toy(images=2), random_instances(2, rng)
  begun = method.init(key, dependencies={"instances": given})
  first = next(start for start, stage in method.stages if stage.mode == "joint")
  states, _ = run(method, begun, key, range(first, first + 3))
  target = np.asarray(given.image, np.float64).mean((0, 1, 2))
  for name in begun.params:
    p, m, v = np.asarray(begun.params[name], np.float64), 0.0, 0.0
    for t, state in enumerate(states[1:], 1):
      if name in TRAINED_NETWORKS["joint"]:
        gradient = 2 * (p - target) + ADAM.weight_decay * p
        m = ADAM.b1 * m + (1 - ADAM.b1) * gradient
        v = ADAM.b2 * v + (1 - ADAM.b2) * gradient**2
        p = p - ADAM.learning_rate * (m / (1 - ADAM.b1**t)) / (np.sqrt(v / (1 - ADAM.b2**t)) + 1e-8)
      np.testing.assert_allclose(state.params[name], p, rtol=2e-5, atol=1e-6)


def test_each_step_draws_by_the_stream_of_its_stage_and_its_own_number(rng, key):
  method, given = toy(images=2, noise=0.3), random_instances(2, rng)
  state = method.init(key, dependencies={"instances": given})
  mean, update = np.asarray(given.image).mean((0, 1, 2)), jax.jit(method.update, static_argnames="stage")
  for step in range(8):
    stage, plan = method.plan(step)
    after, metrics = update(state, {}, key, {name: np.float32(x) for name, x in plan.items()}, stage=stage)
    for name in TRAINED_NETWORKS[stage.mode]:
      slope = 0.3 * jax.random.normal(stream(key, stage.mode, step), (3,))
      expected = np.sum((state.params[name] - mean) ** 2 + slope * state.params[name])
      np.testing.assert_allclose(metrics[name], expected, rtol=1e-4, err_msg=f"{step} {name}")
    state = after


def test_moments_are_reset_at_the_start_of_a_stage_only(rng, key):
  method, given = toy(images=2), random_instances(2, rng)
  states, _ = run(method, method.init(key, dependencies={"instances": given}), key, range(TABLE.total_steps(2)))
  target = np.asarray(given.image, np.float64).mean((0, 1, 2))
  for step, (before, after) in enumerate(itertools.pairwise(states)):
    stage, plan = method.plan(step)
    for name in TRAINED_NETWORKS[stage.mode]:
      p = np.asarray(before.params[name], np.float64)
      gradient = 2 * (p - target) + ADAM.weight_decay * p
      # With zero moments the first step of Adam has the length of the rate in each component.
      reset = np.allclose(after.params[name], p - ADAM.learning_rate * np.sign(gradient), atol=1e-5)
      assert reset == bool(plan["fresh"]), (step, name)
      assert int(after.opt[name][1].count) == plan["index"] + 1


def test_each_pass_visits_every_image_once_and_fills_every_pool_entry_once(rng, key):
  method, given = toy(images=4), random_instances(4, rng)
  state = method.init(key, dependencies={"instances": given})
  batches = [method.batch_indices(state, key, jnp.int32(i)) for i in range(8)]
  for first in range(0, 8, 2):
    assert sorted(np.concatenate([images for images, _ in batches[first : first + 2]])) == [0, 1, 2, 3]
    np.testing.assert_array_equal(batches[first][1], batches[first + 1][1])
  for first in (0, 4):
    assert sorted(np.concatenate([slots for _, slots in batches[first : first + 4 : 2]])) == [0, 1, 2, 3]
  assert any((batches[0][0] != batches[i][0]).any() for i in (2, 4, 6)), "each pass has a new order"
  start = next(start for start, stage in method.stages if stage.mode == "projection")
  states, _ = run(method, state, key, range(start, start + 4))
  image, mask = states[-1].pool.unpack()
  np.testing.assert_allclose(image, jnp.repeat(given.image[:, None], 4, 1), atol=1 / 255 + 1e-6)
  np.testing.assert_array_equal(mask, 1)
  assert (np.asarray(states[-2].pool.mask) == 0).any()


def test_an_instance_does_not_depend_on_the_others_in_its_batch(rng, key):
  method, three = toy(instance_specific=True, noise=0.3), random_instances(3, rng)
  steps = range(method.table.total_steps())
  together, _ = run(method, method.init(key, dependencies={"instances": three}), key, steps)
  alone = jax.tree.map(lambda x: x[1:2], three)
  alone, _ = run(method, method.init(key, dependencies={"instances": alone}), key, steps)
  parts = lambda state: (state.params, state.opt, state.pool)  # noqa: E731
  for a, b in zip(jax.tree.leaves(parts(together[-1])), jax.tree.leaves(parts(alone[-1])), strict=True):
    np.testing.assert_allclose(a[1:2], b, rtol=1e-6, atol=1e-7)
  others = np.asarray(together[-1].params["depth"])
  assert not np.allclose(others[0], others[1])


def test_a_run_starts_from_given_networks(rng, key):
  method = toy(instance_specific=True)
  networks = method.init_networks(jax.random.key(5))
  state = method.init(key, dependencies={"instances": random_instances(2, rng), "networks": networks})
  for name, params in networks.items():
    np.testing.assert_array_equal(state.params[name], jnp.stack([params, params]))
  with pytest.raises(UserError, match="3 images cannot be split into steps of 2"):
    toy().init(key, dependencies={"instances": random_instances(3, rng)})


def test_checkpoints_keep_the_names_of_the_first_release(rng, key):
  state = toy(images=2).init(key, dependencies={"instances": random_instances(2, rng)})
  names = {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(state)}
  assert {"targets.subjects.image", "targets.rendition", "targets.prior", "memory", "pool.image"} <= names
  stages = [StagedStage(2, 2, mode) for mode in ("pose_warmup", "projection", "joint")]
  assert [stage.random_stream for stage in stages] == ["reading", "collect", "joint"]
