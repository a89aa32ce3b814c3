"""Instance-specific training: GAN2Shape on a few images, each with its own weights, with checkpoints.

This is the training loop of `shapegan lift`; joint training on many images is `shapegan_jax.train`. Here there is no
data set, a run takes minutes, and its result is the networks' predictions for the training images themselves.
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
from shapegan_jax.methods.gan2shape.settings import ViewPrior
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
  """Lengths of steps 1, 2 and 3 in the first round and in each later one.

  Args:
    rounds: how often the three steps are repeated.
    albedo, encoder, joint: (first round, later rounds) each, in optimiser steps.
    samples: pseudo or projected samples per step.
    pool: projected samples stored per image.
    prior: steps in which an untrained depth network is fitted to the ellipsoid.
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
      raise UserError("schedule: needs at least 1 round, and at least 1 optimiser step for each of steps 1, 2 and 3")


SHORT = Schedule()
"""A few minutes per image, for networks that were jointly pre-trained."""

FACES = Schedule(4, (600, 200), (600, 500), (400, 300), samples=16, pool=1600)
"""As published for faces and cats, from jointly pre-trained networks."""

BFM = Schedule(1, (500, 500), (500, 500), (200, 200), samples=16, pool=1600)
"""As published for the synthetic BFM faces of the quantitative evaluation; use with symmetry in all rounds."""

CARS = Schedule(4, (700, 200), (700, 500), (600, 400), samples=8, pool=800)
"""As published for cars and churches, from the ellipsoid (there on four GPUs, that is, with four times the samples)."""

SCHEDULES = ("short", "full", "bfm")


def schedule_named(name: str, *, pretrained: bool) -> Schedule:
  """A schedule of `SCHEDULES`; "full" is the published one for networks that are, or are not, pre-trained."""
  return {"short": SHORT, "full": FACES if pretrained else CARS, "bfm": BFM}[name]


def instance_config(
  config: Mapping[str, Any], schedule: Schedule, *, pretrained: bool, symmetry: Symmetry = "first"
) -> dict[str, Any]:
  """A config of GAN2Shape for instance-specific training.

  Args:
    config: of joint training, or any other. Its resolution, networks, camera, masks and priors are kept; the learning
      rate is the published one.
    schedule: lengths of the stages.
    pretrained: trained networks will be given, so that depth is not fitted to the ellipsoid.
    symmetry: the rounds in whose step 3 the mirrored shape must reconstruct the images as well.
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
  instances = {**config.get("instances", {}), "count": 1, "instance_specific": True}
  # The rate of joint training may be higher, and would make a trained network forget.
  optimizers = {**config.get("optimizers", {}), "learning_rate": AdamConfig.learning_rate}
  return {**config, "stages": stages, "instances": instances, "optimizers": optimizers}


def with_estimated_views(config: Mapping[str, Any], networks: dict[str, PyTree], images: Array) -> dict[str, Any]:
  """The config with the view prior that networks predict for the images [n] (uint8) they were trained on.

  A joint run with `views.estimate` keeps its estimate in its state only, and a few images do not suffice to repeat it.
  """
  method = Gan2Shape.from_config(config)
  if not method.views.estimate:
    return dict(config)

  def estimate(networks: dict[str, PyTree], images: Array) -> ViewPrior:
    def view(image: Array) -> Array:
      return method.model.predict_views(networks, image[None].astype(np.float32) / 127.5 - 1)[0]

    return method.views.estimated_prior(jax.lax.map(view, images))

  prior = jax.device_get(jax.jit(estimate)(networks, images))
  covariance = np.asarray(prior.root, np.float64) @ np.asarray(prior.root, np.float64).T
  estimated = {"mean": tuple(prior.mean.tolist()), "covariance": tuple(map(tuple, covariance.tolist()))}
  return {**config, "views": {**config.get("views", {}), **estimated, "estimate": False}}


@dataclasses.dataclass(frozen=True)
class Position:
  """The position of an update within a run."""

  done: int  # updates, with this one
  round: int  # from 1; 0 before the first round
  mode: str  # of the stage
  last: bool  # whether this is the last update of the stage


OnStep = Callable[[Position, Mapping[str, float]], object]
OnStageEnd = Callable[[Position, StagedState], object]


class InstanceTrainer:
  """Trains one config on batches of instances; compiled programs are reused for batches of the same size."""

  def __init__(self, config: Mapping[str, Any]):
    self.config = dict(config)
    self.method = Gan2Shape.from_config(config)
    self.total = self.method.table.total_steps()
    # Lambdas: `jit` hashes bound methods, and a method with LPIPS weights cannot be hashed.
    self._init = jax.jit(lambda key, dependencies: self.method.init(key, dependencies=dependencies))
    self._update = jax.jit(
      lambda *arguments, stage: self.method.update(*arguments, stage=stage),
      static_argnames="stage",
      donate_argnums=0,
    )

  def position(self, step: int) -> Position:
    """The position of update number `step` (from 0)."""
    begun = [stage for start, stage in self.method.stages if start <= step]
    rounds = sum(stage.mode == "albedo" for stage in begun)
    ends = {start for start, _ in self.method.stages} | {self.total}
    return Position(step + 1, rounds, begun[-1].mode, step + 1 in ends)

  def __call__(
    self,
    dependencies: Mapping[str, Any],
    *,
    workdir: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    key: Key | None = None,
    on_step: OnStep = lambda position, metrics: None,
    on_stage_end: OnStageEnd = lambda position, state: None,
  ) -> StagedState | None:
    """The state after the last step; None if the run was stopped before, to be resumed from its workdir.

    Args:
      dependencies: of `StagedMethod.init`: "gan", "instances" and, for pre-trained networks, "networks".
      workdir: for checkpoints and `metrics.jsonl`; a run that it holds is resumed. None: nothing is saved.
      identity: of the run; a workdir with another identity is refused.
      key: of the run.
      on_step: receives every step and its metrics.
      on_stage_end: receives the last step of every stage and the state, whose buffers the next step reuses.

    Raises:
      UserError: the workdir belongs to another run, or a metric is not finite.
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
        abstract = jax.eval_shape(self._init, key, dict(dependencies))
        state = saver.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract))
      else:  # on the device of a restored state, so that both use the same programs
        state = jax.device_put(self._init(key, dict(dependencies)), device)
      stop = stack.enter_context(StopSignals())
      return self._loop(state, first, key, saver, writer, stop, on_step, on_stage_end)

  def _loop(
    self,
    state: StagedState,
    first: int,
    key: Key,
    saver: Checkpoints | None,
    writer: MetricsWriter | None,
    stop: StopSignals,
    on_step: OnStep,
    on_stage_end: OnStageEnd,
  ) -> StagedState | None:
    averages, pending = Averages(), None
    saved = begun = time.monotonic()
    for step in range(first, self.total):
      stage, plan = self.method.plan(step)
      state, metrics = self._update(state, {}, key, {name: np.float32(x) for name, x in plan.items()}, stage=stage)
      if pending is not None:  # fetched one step late, so that the transfer does not delay the next step
        averages.add(_fetch(*pending, on_step))
      position = self.position(step)
      pending, over = (position, metrics), position.done == self.total
      stopping = stop.asked and not over
      logging = position.last or stopping or position.done % _LOG_EVERY == 0
      if logging:
        averages.add(_fetch(*pending, on_step))
        pending = None
      if logging and writer is not None:
        writer.scalars(position.done, {"round": position.round, **averages.take(), "seconds": time.monotonic() - begun})
        begun = time.monotonic()
      if position.last:
        on_stage_end(position, state)
      due = over or stopping or (position.last and position.mode == "joint") or time.monotonic() - saved > _SAVE_SECONDS
      if saver is not None and due and logging:
        saver.save(position.done, state)
        saved = time.monotonic()
      if stopping:
        return None
    return state


def _fetch(position: Position, metrics: Mapping[str, Array], on_step: OnStep) -> dict[str, float]:
  """Wait for the metrics of an update."""
  values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
  if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
    raise UserError(f"step {position.done}: {wrong[0]} is {values[wrong[0]]}; the last checkpoint is kept")
  on_step(position, values)
  return values


def loss_history(workdir: str | Path) -> tuple[dict[str, dict[str, list[float]]], float]:
  """({"round 1": {"albedo/l1": [first, last], ...}, ...}, seconds) of a run, from its log."""
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
