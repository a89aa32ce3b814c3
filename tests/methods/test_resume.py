"""Every config's default, made small, trains: all its parameters move, and a run that is interrupted ends with the same
bits as one that is not."""

from __future__ import annotations

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from shapegan_jax.methods.catalog import build
from shapegan_jax.rng import root_key
from shapegan_jax.train import train

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.py") if "def get_config(" in path.read_text("utf-8"))


class Pictures:
  """A data set of 12 random pictures."""

  def __len__(self):
    return 12

  def __getitem__(self, index):
    return {"image": np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)}


def settings(name):
  config = common.shrink(importlib.import_module(f"configs.{name}").get_config())
  if "tracking" in config:
    config.tracking.update(enabled=True, start=1)  # two plain steps, then tracked ones
  config.checkpoint.every = 2
  config.preview.count = config.evaluation.samples = 0
  return config.to_dict()


def enough(method):
  """Four steps; where stages train networks in turns, two of the last to come for the first time."""
  firsts = {getattr(stage, "mode", ""): start for start, stage in reversed(method.stages)}
  return max(4, max(firsts.values()) + 2)


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_learns_and_an_interrupted_run_ends_with_the_same_bits(name, tmp_path):
  config = settings(name)
  method = build(config)
  steps = enough(method)
  whole = train({**config, "num_steps": steps}, tmp_path / "whole", source=Pictures())
  train({**config, "num_steps": steps - 1}, tmp_path / "parts", source=Pictures())
  resumed = train({**config, "num_steps": steps}, tmp_path / "parts", source=Pictures())
  assert int(resumed.step) == steps
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, resumed)
  fresh = method.params_of(jax.jit(method.init)(root_key(config["seed"])), ema=False)
  still = jax.tree.map(
    lambda a, b: not (np.asarray(a) != np.asarray(b)).any(), fresh, method.params_of(whole, ema=False)
  )
  untrained = [jax.tree_util.keystr(path) for path, same in jax.tree_util.tree_leaves_with_path(still) if same]
  assert not untrained, f"parameters that nothing trains: {untrained}"
