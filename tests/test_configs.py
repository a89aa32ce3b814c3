"""Every shipped config, in every preset: it builds, it survives its own JSON, each of its stages can be traced at full
size, and `configs.common.shrink` keeps its program."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import common
from shapegan_jax.data.sources import open_source
from shapegan_jax.errors import UserError
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build
from shapegan_jax.rng import root_key
from shapegan_jax.schedules import Stage

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if "def get_config(" in path.read_text("utf-8"))


def module(name: str) -> ModuleType:
  return importlib.import_module(f"configs.{name}")


def presets(name: str) -> list[str]:
  """The names after the colon that a config knows."""
  with mock.patch.object(common, "choose", wraps=common.choose) as choose:
    module(name).get_config()
  return list(choose.call_args.args[1])


ALL_PRESETS = [pytest.param(name, preset, id=f"{name}:{preset}") for name in CONFIGS for preset in presets(name)]


@functools.cache
def config_of(name: str, preset: str) -> ConfigDict:
  return module(name).get_config(preset)


@functools.cache
def method_of(name: str, preset: str) -> Method:
  return build(config_of(name, preset).to_dict())


@pytest.fixture
def no_collector():
  """Tracing makes many small objects and few cycles: without the collector it takes two thirds of the time."""
  gc.disable()
  yield
  gc.enable()


def shapes(tree):
  return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_opens_with_its_command_and_offers_heads_and_smoke(name):
  assert f"python -m shapegan_jax.main --config=configs/{name}.py" in module(name).__doc__
  assert presets(name)[0] == "heads", "the first preset is the default"
  assert module(name).get_config().to_dict() == config_of(name, "heads").to_dict()
  assert "smoke" in presets(name)
  with pytest.raises(ValueError, match=r"no_such_preset.*heads.*smoke"):
    module(name).get_config("no_such_preset")


@pytest.mark.parametrize(("name", "preset"), ALL_PRESETS)
def test_a_preset_builds_refuses_typos_and_survives_its_json(name, preset):
  written = json.loads(json.dumps(config_of(name, preset).to_dict()))
  assert build(written).stages == method_of(name, preset).stages
  sections = {"stages", "objectives", "optimizers", "cameras", "field", "discriminator", "synthesis"}
  sections = (sections | {"relief", "networks", "masks"}) & set(written)
  assert len(sections) >= 5
  for section in sorted(sections):
    with pytest.raises(UserError, match="no_such_setting"):
      build({**written, section: {**written[section], "no_such_setting": 1}})


@pytest.mark.parametrize(("name", "preset"), ALL_PRESETS)
def test_a_preset_names_its_missing_pictures(name, preset, tmp_path, monkeypatch):
  config = config_of(name, preset).data.to_dict()
  if config["name"] in ("heads", "named", "none"):
    pytest.skip("makes or fetches its own pictures")
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"path|folder|directory"):
    open_source(config)


def shallow(config: ConfigDict) -> ConfigDict:
  """The config with two layers where it has many alike, which is most of what tracing costs; all sizes stay."""
  config = config.copy_and_resolve_references()
  if "field" in config:
    config.field.depth = 2
    if "skip" in config.field:  # the layer that reads the inputs again stays
      config.field.skip = 0
  if "n_hidden" in config.get("mapping", {}):
    config.mapping.n_hidden = 1
  return config


# What of a stage says how many or how large. Stages alike but for these are one program in other sizes: of `heads` the
# first of each program and the last stage are traced. With THOROUGH=1 (.ci/run sets it) all stages of all presets are,
# at the shipped depth.
SIZES = {"resolution", "samples", "batch_size", "topk_group", "gradient_scale"}


def to_trace(stages: tuple[tuple[int, Stage], ...]) -> list[tuple[int, Stage]]:
  if os.environ.get("THOROUGH"):
    return list(stages)
  programs: dict[str, tuple[int, Stage]] = {}
  for start, stage in stages:
    kind = {name: value for name, value in dataclasses.asdict(stage).items() if name not in SIZES}
    programs.setdefault(repr(kind), (start, stage))
  return list(dict.fromkeys([*programs.values(), stages[-1]]))


@pytest.mark.parametrize(("name", "preset"), ALL_PRESETS)
def test_every_stage_of_a_preset_can_be_traced_at_full_size(name, preset, no_collector):
  if preset != "heads" and not os.environ.get("THOROUGH"):
    pytest.skip("minutes, all together; THOROUGH=1 traces every preset")
  key = root_key(0)
  jax.eval_shape(method_of(name, preset).init, key)
  config = config_of(name, preset)
  method = build((config if os.environ.get("THOROUGH") else shallow(config)).to_dict())
  state = jax.eval_shape(method.init, key)
  starts = [start for start, _ in method.stages]
  assert starts[0] == 0
  assert starts == sorted(set(starts))
  for start, stage in method.stages:
    assert method.plan(start)[0] == stage
    assert stage.batch_size % (getattr(stage, "topk_group", 0) or 1) == 0
  for start, stage in to_trace(method.stages):
    _, anneals = method.plan(start)
    size = stage.resolution
    batch = {"image": jax.ShapeDtypeStruct((stage.batch_size, size, size, 3), jnp.float32)}
    anneals = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in anneals}
    after, metrics = jax.eval_shape(functools.partial(method.update, stage=stage), state, batch, key, anneals)
    # The state must come out as it went in, or it can be neither donated nor restored.
    assert shapes(after) == shapes(state)
    assert {jnp.shape(value) for value in metrics.values()} == {()}, metrics


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shrunk_config_keeps_its_program(name):
  """That it trains is seen in methods/test_resume.py."""
  config = config_of(name, "heads")
  kept = config.to_dict()
  small = common.shrink(config)
  assert config.to_dict() == kept, "shrink must leave what it is given alone"
  assert len(build(small.to_dict()).stages) == len(method_of(name, "heads").stages)
