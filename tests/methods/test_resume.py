"""A run of a real method that is interrupted, between two stages if it has them, ends with the same bits as one that is
not: every config's preset `smoke`, made small."""

from __future__ import annotations

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common
from shapegan_jax.train import train

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.py") if "def get_config(" in path.read_text("utf-8"))


class Pictures:
  """A data set of 12 random pictures."""

  def __len__(self):
    return 12

  def __getitem__(self, index):
    return {"image": np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)}


def settings(name, num_steps):
  config = common.shrink(importlib.import_module(f"configs.{name}").get_config("smoke"))
  if "tracking" in config:
    config.tracking.start = 1  # two plain steps, then tracked ones
  config.num_steps = num_steps
  config.checkpoint.every = 2
  config.preview.count = config.evaluation.samples = 0
  return config.to_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_interrupted_run_ends_with_the_same_bits(name, tmp_path):
  whole = train(settings(name, 4), tmp_path / "whole", source=Pictures())
  train(settings(name, 3), tmp_path / "parts", source=Pictures())
  resumed = train(settings(name, 4), tmp_path / "parts", source=Pictures())
  assert int(resumed.step) == 4
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, resumed)
