"""Lifting: GAN2Shape's rounds on a few subjects, each with weights of its own, kept on disk as they go.

The loop of instances, beside `shapegan_jax.train` for networks that many subjects share: there is no data set, a run is
minutes long, and what is wanted is not the networks but what they say of these very subjects at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from shapegan_jax.checkpoints import Checkpoints, claim_workdir
from shapegan_jax.errors import UserError
from shapegan_jax.methods.gan2shape.engine_settings import AdamConfig, StagedState
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.parallel import StopSignals
from shapegan_jax.reporting.progress import Averages
from shapegan_jax.reporting.writer import MetricsWriter
from shapegan_jax.rng import root_key
from shapegan_jax.types import Array, Key, PyTree

Symmetry = Literal["none", "first", "all"]

_LOG_EVERY = 10  # steps
_SAVE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Steps 1, 2 and 3 of the first round and of each later one, with `samples` drawings a step and a pool of `pool`.

  `prior`: steps in which a depth network that nothing has trained learns the ellipsoid.
  """

  rounds: int = 1
  albedo: tuple[int, int] = (100, 100)
  encoder: tuple[int, int] = (150, 150)
  joint: tuple[int, int] = (100, 100)
  samples: int = 8
  pool: int = 64
  prior: int = 1000

  def __post_init__(self):
    if self.rounds < 1 or min(self.albedo + self.encoder + self.joint) < 1:
      raise UserError("schedule: every round has at least 1 step of each of its three kinds")


SHORT = Schedule()
"""A few minutes a subject: what is left to do after joint pre-training."""

FACES = Schedule(4, (600, 200), (600, 500), (400, 300), samples=16, pool=1600)
"""As published for faces and cats, from networks that were trained on many subjects."""

BFM = Schedule(1, (500, 500), (500, 500), (200, 200), samples=16, pool=1600)
"""As published for the synthetic faces on which shapes are measured; the mirrored relief counts in all of it."""

CARS = Schedule(4, (700, 200), (700, 500), (600, 400), samples=8, pool=800)
"""As published for cars and churches, from the ellipsoid (by four devices, that is, with four times the samples)."""

NAMES = ("short", "full", "bfm")


def named(name: str, *, pretrained: bool) -> Schedule:
  """A schedule of `NAMES`; "full" is what was published for networks that are pretrained, or are not."""
  return {"short": SHORT, "full": FACES if pretrained else CARS, "bfm": BFM}[name]


def instance_config(
  config: Mapping[str, Any], schedule: Schedule, *, pretrained: bool, symmetry: Symmetry = "first"
) -> dict[str, Any]:
  """A config of GAN2Shape for subjects with weights of their own.

  Args:
    config: of joint training, or any other; its resolution, networks, camera, masks and priors stay, the rate is
      the published one.
    schedule: how long.
    pretrained: networks will be handed in, so there is no ellipsoid to learn.
    symmetry: the rounds in whose step 3 the mirrored relief has to explain the pictures too.
  """
  mirrored = [symmetry == "all" or (symmetry == "first" and i == 0) for i in range(schedule.rounds)]
  lengths = dataclasses.asdict(schedule)
  del lengths["rounds"]
  stages = {
    **lengths,
    "resolution": config["stages"]["resolution"],
    "prior": 0 if pretrained else schedule.prior,
    "flip_albedo": (False,) * schedule.rounds,
    "flip_joint": tuple(mirrored),
    "images_per_step": 1,
  }
  subjects = {**config.get("subjects", {}), "count": 1, "instance": True}
  # Joint training's rate may be higher, and would lead a trained network away from what it has learned.
  optimizers = {**config.get("optimizers", {}), "learning_rate": AdamConfig.learning_rate}
  return {**config, "stages": stages, "subjects": subjects, "optimizers": optimizers}


def with_measured_views(config: Mapping[str, Any], networks: dict[str, PyTree], pictures: Array) -> dict[str, Any]:
  """The config with the view prior that networks find in the pictures [n] they were trained on (uint8).

  A joint run whose prior is estimated leaves it to its state; of a few subjects it could not be estimated again.
  """
  method = Gan2Shape.from_config(config)
  if not method.views.estimate:
    return dict(config)

  def measure(networks: dict[str, PyTree], pictures: Array) -> Any:
    def view(picture: Array) -> Array:
      return method.model.views(networks, picture[None].astype(np.float32) / 127.5 - 1)[0]

    return method.views.measured(jax.lax.map(view, pictures))

  prior = jax.device_get(jax.jit(measure)(networks, pictures))
  covariance = np.asarray(prior.root, np.float64) @ np.asarray(prior.root, np.float64).T
  found = {"mean": tuple(prior.mean.tolist()), "covariance": tuple(map(tuple, covariance.tolist()))}
  return {**config, "views": {**config.get("views", {}), **found, "estimate": False}}


@dataclasses.dataclass(frozen=True)
class Turn:
  """Where a run is. `round` counts from 1; 0 is before the first one. `last`: this update is its stage's last."""

  done: int  # updates
  round: int
  mode: str
  last: bool


class Lifter:
  """Runs one config on groups of subjects; what it compiles is used again for groups of the same size."""

  def __init__(self, config: Mapping[str, Any]):
    self.config = dict(config)
    self.method = Gan2Shape.from_config(config)
    self.total = self.method.table.length()
    # Lambdas: methods of an object that cannot be hashed cannot be jitted.
    self._init = jax.jit(lambda key, given: self.method.init(key, dependencies=given))
    self._update = jax.jit(
      lambda *arguments, stage: self.method.update(*arguments, stage=stage),
      static_argnames="stage",
      donate_argnums=0,
    )

  def turn(self, step: int) -> Turn:
    """What update number `step` (from 0) belongs to."""
    begun = [stage for start, stage in self.method.stages if start <= step]
    rounds = sum(stage.mode == "albedo" for stage in begun)
    ends = {start for start, _ in self.method.stages} | {self.total}
    return Turn(step + 1, rounds, begun[-1].mode, step + 1 in ends)

  def __call__(
    self,
    given: Mapping[str, Any],
    *,
    workdir: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    key: Key | None = None,
    stepped: Callable[[Turn, Mapping[str, float]], object] = lambda turn, metrics: None,
    ended: Callable[[Turn, StagedState], object] = lambda turn, state: None,
  ) -> StagedState | None:
    """The state after the last step; None where the run was asked to stop before, and can go on from its workdir.

    Args:
      given: dependencies of `StagedMethod.init`: "gan", "subjects" and, where there are, "networks".
      workdir: for checkpoints and `metrics.jsonl`; what is there is gone on with. None: nothing is kept.
      identity: says whose run it is; a workdir of another one is refused.
      key: the run's.
      stepped: told of every step, with its numbers.
      ended: told of the end of every stage. The state is not to be kept beyond the call.

    Raises:
      UserError: the workdir belongs to another run, or a number is no longer finite.
    """
    key = root_key(0) if key is None else key
    with contextlib.ExitStack() as stack:
      saver, writer, state, first = None, None, None, 0
      if workdir is not None:
        claim_workdir(workdir, {**self.config, "run": dict(identity or {})})
        saver = stack.enter_context(Checkpoints(workdir, keep=1))
        first = saver.latest_step() or 0
        writer = MetricsWriter(workdir, first_step=first)
        stack.callback(writer.close)
      device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      if first:
        abstract = jax.eval_shape(self._init, key, dict(given))
        state = saver.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract))
      else:  # put where a restored one would be, so that the same programs serve both
        state = jax.device_put(self._init(key, dict(given)), device)
      stop = stack.enter_context(StopSignals())
      return self._loop(state, first, key, saver, writer, stop, stepped, ended)

  def _loop(
    self,
    state: StagedState,
    first: int,
    key: Key,
    saver: Checkpoints | None,
    writer: MetricsWriter | None,
    stop: StopSignals,
    stepped: Callable[[Turn, Mapping[str, float]], object],
    ended: Callable[[Turn, StagedState], object],
  ) -> StagedState | None:
    averages, pending = Averages(), None
    saved = begun = time.monotonic()
    for step in range(first, self.total):
      stage, plan = self.method.plan(step)
      state, metrics = self._update(state, {}, key, {name: np.float32(x) for name, x in plan.items()}, stage=stage)
      if pending is not None:  # only now, so that reading the step before does not keep this one waiting
        averages.add(_read(*pending, stepped))
      turn = self.turn(step)
      pending, over = (turn, metrics), turn.done == self.total
      stopping = stop.asked and not over
      logging = turn.last or stopping or turn.done % _LOG_EVERY == 0
      if logging:
        averages.add(_read(*pending, stepped))
        pending = None
      if logging and writer is not None:
        writer.scalars(turn.done, {"round": turn.round, **averages.take(), "seconds": time.monotonic() - begun})
        begun = time.monotonic()
      if turn.last:
        ended(turn, state)
      due = over or stopping or (turn.last and turn.mode == "joint") or time.monotonic() - saved > _SAVE_SECONDS
      if saver is not None and due and logging:
        saver.save(turn.done, state)
        saved = time.monotonic()
      if stopping:
        return None
    return state


def _read(
  turn: Turn, metrics: Mapping[str, Array], stepped: Callable[[Turn, Mapping[str, float]], object]
) -> dict[str, float]:
  """Wait for the numbers of an update."""
  values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
  if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
    raise UserError(f"step {turn.done}: {wrong[0]} is {values[wrong[0]]}; the run stops, and its last save is kept")
  stepped(turn, values)
  return values


def history(workdir: str | Path) -> tuple[dict[str, dict[str, list[float]]], float]:
  """({"round 1": {"albedo/l1": [at its beginning, at its end], ...}, ...}, seconds) of a run, from its log."""
  rounds: dict[str, dict[str, list[float]]] = {}
  seconds = 0.0
  for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines():
    row = json.loads(line)
    seconds += row.pop("seconds")
    del row["step"]
    one = rounds.setdefault(f"round {row.pop('round'):.0f}", {})
    for name, value in row.items():
      one[name] = [one[name][0] if name in one else value, value]
  return rounds, seconds
