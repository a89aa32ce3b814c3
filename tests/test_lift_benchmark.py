"""The benchmark of `shapegan lift`: results of several processes, and finished batches."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from benchmarks import lift
from shapegan_jax.methods.gan2shape.engine_settings import InstanceImages


def part(first, count, identity="same"):
  rows = {str(i): {"round 1": {"side_e2": float(i)}, "seconds": 1.0} for i in range(first, first + count)}
  return {
    "identity": identity,
    "projection": {str(i): {"psnr": 30.0} for i in range(first, first + count)},
    "short": rows,
  }


def test_results_of_other_processes_are_merged():
  results = part(0, 2)
  lift.merge(results, part(2, 3))
  assert sorted(results["short"]) == sorted(results["projection"]) == ["0", "1", "2", "3", "4"]
  assert results["short"]["4"]["round 1"]["side_e2"] == 4.0


def test_results_of_other_settings_are_refused():
  with pytest.raises(SystemExit, match="--merge: results of another model or of other settings"):
    lift.merge(part(0, 2), part(2, 2, identity="other"))


def test_a_finished_batch_is_not_repeated():
  benchmark = object.__new__(lift.ScheduleBenchmark)
  benchmark.name, benchmark.results = "short", part(0, 4)
  instances = InstanceImages(*(jnp.zeros((2, 1)) for _ in range(3)))
  assert benchmark.lift([1, 2], instances)
