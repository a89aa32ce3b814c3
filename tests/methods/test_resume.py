"""A run of a real method that is interrupted between two stages ends with the same bits as one that is not."""

from __future__ import annotations

import jax
import numpy as np

from configs import common, shadegan
from shapegan_jax.train import train


class Pictures:
  """A data set of 12 random pictures."""

  def __len__(self):
    return 12

  def __getitem__(self, index):
    return {"image": np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)}


def settings(num_steps):
  config = common.shrink(shadegan.get_config("smoke"))
  config.tracking.start = 1  # two plain steps, then tracked ones
  config.num_steps = num_steps
  config.checkpoint.every = 2
  config.preview.count = config.evaluation.samples = 0
  return config.to_dict()


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
  whole = train(settings(4), tmp_path / "whole", source=Pictures())
  train(settings(3), tmp_path / "parts", source=Pictures())
  resumed = train(settings(4), tmp_path / "parts", source=Pictures())
  assert int(resumed.step) == 4
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), whole, resumed)
