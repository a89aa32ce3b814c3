"""The plan counts what training will run, fits what fits, and proposes what makes the rest fit."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from commands import refused, run
from toy_method import ToyMethod

from shapegan_jax import parallel
from shapegan_jax.methods.volume_gan.renderer import device_chunk_points
from shapegan_jax.methods.volume_gan.settings import GanStage
from shapegan_jax.planning import advice as plan_advice
from shapegan_jax.planning import stages as plan_stages
from shapegan_jax.planning.advice import suggestion
from shapegan_jax.planning.costs import Cost, peak_bytes
from shapegan_jax.planning.devices import MEMORY_SHARE, NAMED, Device, memory_of
from shapegan_jax.planning.report import Column, aligned, as_json, as_text, short_time
from shapegan_jax.planning.stages import (
  ACCELERATOR_POINTS,
  KERNEL_SCRATCH,
  RunPlan,
  StagePlan,
  complete,
  for_accelerators,
  plan_run,
)
from shapegan_jax.programs import abstract_arguments, trace_update
from shapegan_jax.settings import read_settings

CONFIG = """
from ml_collections import ConfigDict
def get_config(preset='heads'):
  if preset != 'heads': raise ValueError(f'no preset {preset!r}; choose one of: heads')
  return ConfigDict({'method': 'toy', 'num_steps': 9, 'rate': (0.1, 0.2), 'data': {'flip': True}})
"""


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "toy.py"
  path.write_text(CONFIG)
  return path


def test_settings_are_read_as_in_training(config):
  assert read_settings(str(config)) == {"method": "toy", "num_steps": 9, "rate": (0.1, 0.2), "data": {"flip": True}}
  changed = read_settings(f"{config}:heads", ["num_steps=4", "rate=(1.0,)", "data.flip=False"])
  assert changed == {"method": "toy", "num_steps": 4, "rate": (1.0,), "data": {"flip": False}}
  assert read_settings(str(config))["num_steps"] == 9, "one reading leaves nothing for the next"


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--config={config}:bad"], "no preset 'bad'; choose one of: heads"),
    (["--config={config}", "--config.num_stepz=3"], "no such setting: num_stepz; Did you mean num_steps"),
    (["--config={config}", "--config.num_steps=many"], "num_steps=many"),
    (["--config={config}.none"], "toy.py.none"),
    (["--config.num_steps=3"], "--config"),
    (["--config={config}", "--devices=0"], "--devices=0: at least one"),
    (["--config={config}", "--devices=7"], "--devices=7: this machine has 2; with JAX_PLATFORMS=cpu"),
    (["--config={config}"], "no method is called 'toy'"),
  ],
)
def test_a_mistake_is_one_line(arguments, words, config, capsys):
  jax.devices()  # once jax runs, the number of stand-ins is settled
  assert words in refused(capsys, "plan", *(argument.format(config=config) for argument in arguments))


def test_shapes_make_the_program_that_arrays_make(key):
  method = ToyMethod()
  mesh = parallel.mesh_for(method.stages)
  run = plan_run({"num_steps": 5}, method=method)
  state = jax.device_put(method.init(key), parallel.replicated(mesh))
  assert [(p.start, p.steps) for p in run.stages] == [(0, 3), (3, 2)]
  assert [p.rows for p in run.stages] == [stage.batch_size // 2 for _, stage in method.stages]
  assert run.parameters == 4
  assert run.state == sum(x.nbytes for x in jax.tree.leaves(state))
  for plan in run.stages:
    size = (plan.stage.batch_size, plan.stage.resolution, plan.stage.resolution, 3)
    batch = parallel.put_batch(mesh, {"image": np.zeros(size, np.float32)})
    given = parallel.put_replicated(mesh, {name: np.float32(x) for name, x in method.plan(plan.start)[1].items()})
    arguments = (state, batch, jax.device_put(key, parallel.replicated(mesh)), given)
    program = trace_update(method, mesh, plan.stage, arguments).lower().compile()
    assert peak_bytes(program) + KERNEL_SCRATCH == plan.memory
    assert program.input_shardings == plan.program.input_shardings
  # Each device holds the state and half of a batch, at least.
  assert run.memory > KERNEL_SCRATCH + run.state + 4 * np.prod(size) / 2
  assert [p.steps for p in plan_run({"num_steps": 2}, method=method).stages] == [2]


def test_nothing_is_allocated():
  method = ToyMethod(stages=((0, dataclasses.replace(ToyMethod().stages[0][1], batch_size=2**20, resolution=2**10)),))
  arguments = abstract_arguments(method, parallel.mesh_for(method.stages), 0)
  assert arguments[1]["image"].size > 2**40
  assert not any(isinstance(x, jax.Array) for x in jax.tree.leaves(arguments))


def test_what_is_not_there_yet_is_not_needed():
  lights = {"prior": "fitted", "mean": (), "covariance": ()}
  settled, remarks = complete({"method": "shadegan", "lights": lights})
  assert settled["lights"]["prior"] == "gaussian"
  assert np.shape(settled["lights"]["covariance"]) == (4, 4)
  assert not remarks
  given = {"method": "gan2shape", "gan": {"model": "no-such-model", "network": {"mapping": {}}}}
  settled, (remark,) = complete(given)
  assert settled == given
  assert remark.startswith("config.gan.model: no-such-model: no such model")


def test_accelerators_get_their_own_chunks(monkeypatch):
  config = {"rendering": {"chunk_points": 0, "fine": True}}
  assert for_accelerators(config)["rendering"] == {"chunk_points": ACCELERATOR_POINTS, "fine": True}
  assert config["rendering"]["chunk_points"] == 0
  for kept in ({"rendering": {"chunk_points": 7}}, {"rendering": {}}, {}):
    assert for_accelerators(kept) == kept
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert device_chunk_points() == ACCELERATOR_POINTS


def test_a_step_is_bound_by_arithmetic_or_by_memory():
  device = Device("one", products=100.0, bandwidth=10.0, memory=50.0)
  assert device.seconds(Cost(products=1000, moved=20)) == 10 + 2
  assert device.seconds(Cost(products=1000, moved=500)) == 50 + 50
  processor = dataclasses.replace(device, bandwidth=None, elementwise=5.0)
  assert processor.seconds(Cost(products=1000, elementwise=20, moved=10**9)) == 10 + 4
  assert device.holds(MEMORY_SHARE * 50)
  assert not device.holds(MEMORY_SHARE * 50 + 1)
  assert dataclasses.replace(device, memory=None).holds(1) is None
  # The published ridges, operations to a byte: float32 is bound by memory later on TPUs, which round it to bfloat16.
  ridges = {device.name: device.products / device.bandwidth for device in NAMED}
  assert ridges["T4"] < ridges["A100 80GB"] < ridges["H200"] * 0.8 < ridges["TPU v5e"] < ridges["TPU v6e"]


def test_free_memory_is_read_from_the_system():
  size = memory_of(jax.local_devices()[0])
  assert size is None or 2**26 < size < 2**50


NO_PROGRAM = jax.jit(lambda: 0).lower().compile()


def stage_plan(stage, start, steps, memory):
  return StagePlan(stage, start, steps, stage.batch_size, Cost(10**9, 10**8, 10**6), memory, NO_PROGRAM)


def run_plan(*stages, config=None, state=10):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (parallel.DATA, parallel.RAYS))
  return RunPlan({"method": "toy", **(config or {})}, ToyMethod(), mesh, stages, 1234, state)


def test_the_report_says_what_fits_where():
  here = run_plan(stage_plan(GanStage(32, 8), 0, 30, 10**6), stage_plan(GanStage(64, 4), 30, 60, 5 * 10**9))
  there = run_plan(*(dataclasses.replace(p, memory=2 * p.memory) for p in here.stages))
  small, large = Device("small", 1e9, 1e9, 4e9), Device("large", 1e12, 1e12, 20e9)
  columns = [Column.of(small, here, [0.5, 2.0]), Column.of(large, there), Column.of(Device("?", 1e9, 1e9, None), there)]
  assert columns[0].total == 30 * 0.5 + 60 * 2.0
  assert columns[1].seconds == pytest.approx([large.seconds(p.cost) for p in there.stages])
  assert [column.fits for column in columns] == [False, True, None]
  text = as_text(columns, ["a remark"])
  assert "toy, 90 steps on 1 x cpu" in text
  assert "1,234 in the generator" in text
  (fits,) = [line for line in text.splitlines() if line.startswith("fits")]
  assert fits.split() == ["fits", "no", "yes", "?"]
  (first,) = [line for line in text.splitlines() if line.startswith("1  32x32, batch 8")]
  assert first.endswith("2 MB")
  assert "this one: measured" in text
  assert text.endswith("a remark")
  told = json.loads(as_json(columns, ["a remark"]))
  assert told["stages"][1]["devices"][0] == {
    **{"device": "small", "flops": 11 * 10**8, "bytes": 5 * 10**9, "seconds": 2.0, "measured": True},
  }
  assert [total["fits"] for total in told["totals"]] == [False, True, None]


def test_columns_stand_below_one_another():
  assert aligned([["a", "bcd", "e"], ["fgh", "i", "j"]]) == ["a    bcd  e", "fgh  i    j"]
  assert [short_time(x) for x in (4e-5, 0.0312, 0.66, 12.3, 600.0)] == ["0.04 ms", "31 ms", "0.66 s", "12 s", "10 min"]


# A stage needs 100, 2 per picture and 1 per 1,000 points in flight; two micro-batches halve the cost of its pictures.
TABLE = {"start": (0, 5), "batch_size": (16, 64), "topk_group": (0, 8)}


@pytest.fixture
def world(monkeypatch):
  def planned(method, mesh, start, *, quick):
    row, table = int(start >= 5), method["stages"]
    batch = table["batch_size"][row] / table.get("micro_batches", 1)
    return stage_plan(GanStage(8, 8), start, 1, int(100 + 2 * batch + method["rendering"]["chunk_points"] / 1000))

  monkeypatch.setattr(plan_advice, "plan_stage", planned)
  monkeypatch.setattr(plan_advice, "build", lambda config: config)
  config = {"stages": TABLE, "rendering": {"chunk_points": 64_000}}
  stages = [stage_plan(GanStage(8, size), start, 5, 164 + 2 * size) for start, size in ((0, 16), (5, 64))]
  return run_plan(*stages, config=config, state=100)


@pytest.mark.parametrize(
  ("limit", "words"),
  [
    (250, "--config.rendering.chunk_points=16000"),
    (240, "--config.rendering.chunk_points=4000"),
    (230, "--config.stages.micro_batches=2"),  # chunks of 1,000 points are too small
    (200, "--config.stages.micro_batches=4"),
    (180, "--config.stages.micro_batches=8"),
    # 100 for the state, 192 shared by the devices or in proportion to the batch, of which top-k takes 8 together.
    (171, "4 devices instead of 1 (an estimate: --devices=4 counts)"),
    (140, "8 devices instead of 1 (an estimate: --devices=8 counts)"),
    (100.5, "nothing that keeps the networks and the resolution"),
  ],
)
def test_the_cheapest_change_that_fits_is_proposed(world, limit, words):
  assert suggestion(world, limit, 1) == words


def test_a_smaller_batch_keeps_what_is_looked_at_together(world):
  ((words, config),) = plan_advice.smaller(world, 250)
  assert words == "--config.stages.batch_size='(16, 48)', another training"
  assert config["stages"] == {**TABLE, "batch_size": (16, 48)}
  assert not list(plan_advice.smaller(world, 100))
  staged = dataclasses.replace(world, config={"stages": {"samples": 12}})
  assert [config["stages"]["samples"] for _, config in plan_advice.smaller(staged, 1)] == [6, 3]


def test_the_command_says_it_all(config, capsys, monkeypatch):
  monkeypatch.setattr(plan_stages, "build", lambda config: ToyMethod())
  code, out, err = run(capsys, "plan", f"--config={config}", "--config.num_steps=5", "--json")
  assert (code, err) == (0, "")
  told = json.loads(out)
  assert [(stage["start"], stage["steps"]) for stage in told["stages"]] == [(0, 3), (3, 2)]
  assert len(told["totals"]) == 1 + len(NAMED)
  assert told["totals"][0]["seconds"] > 0
  assert not any(total["fits"] is False for total in told["totals"])
  code, out, _ = run(capsys, "plan", f"--config={config}", "--no-named", "--measure")
  assert code == 0
  assert "toy, 9 steps on 2 x cpu" in out
  assert "this one: measured" in out
