"""The table of lifted pictures, shared out among processes."""

from __future__ import annotations

import pytest

from benchmarks import lift


def part(first, count, identity="same"):
  rows = {str(i): {"round 1": {"side_e2": float(i)}, "seconds": 1.0} for i in range(first, first + count)}
  return {
    "identity": identity,
    "projection": {str(i): {"psnr": 30.0} for i in range(first, first + count)},
    "short": rows,
  }


def test_what_other_processes_lifted_is_taken_over():
  results = part(0, 2)
  lift.merge(results, part(2, 3))
  assert sorted(results["short"]) == sorted(results["projection"]) == ["0", "1", "2", "3", "4"]
  assert results["short"]["4"]["round 1"]["side_e2"] == 4.0


def test_results_of_other_settings_are_not():
  with pytest.raises(SystemExit, match="--merge: results of another model or of other settings"):
    lift.merge(part(0, 2), part(2, 2, identity="other"))


def test_a_group_that_is_done_is_not_done_again():
  bench = object.__new__(lift.Bench)
  bench.name, bench.results = "short", part(0, 4)
  assert bench.group([1, 2], subjects=None)
