"""Scaling with the number of devices: each does its share, and there are few collectives, none of them in loops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiler_flags import HURRY

ROOT = Path(__file__).parents[1]
NUMBERS = (1, 2, 4, 8) if os.environ.get("THOROUGH") else (1, 4)
CONFIGS = ("pigan", "shadegan", "gof") if os.environ.get("THOROUGH") else ("pigan",)
SUMS = {"pigan": 3, "shadegan": 3, "gof": 3}
"""The gradients of the generator and of the discriminator; the smoothness of normals divides by how many rays meet a
surface."""
PICTURES = {"pigan": 3, "shadegan": 3, "gof": 4}
"""Gathered where rays are shared: pictures, where the smoothness of normals looks for ends of rays, and the normals,
alphas and hits that GOF's regularisers compare."""


@pytest.fixture(scope="module", params=CONFIGS)
def rows(request, tmp_path_factory):
  """(config, {(scaling, devices): row} of `benchmarks.scaling`)."""
  output = tmp_path_factory.mktemp("scaling") / "rows.json"
  config = [f"--config=configs/{request.param}.py:smoke", "--change=rendering.chunk_points=256"]
  numbers = [f"--devices={','.join(map(str, NUMBERS))}", f"--output={output}"]
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.scaling", *config, *numbers],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": HURRY},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr
  return request.param, {(row["scaling"], row["devices"]): row for row in json.loads(output.read_text())}


def test_there_is_a_collective_per_network_and_none_in_a_loop(rows):
  """Top-k gathers the logits; where the rays of a picture are shared, each network gathers them into pictures once."""
  config, rows = rows
  for row in rows.values():
    assert not row["collectives_in_loops"], row
    found, shares_rays = row["collectives"], row["mesh"][1] > 1
    assert set(found) <= {"all-reduce", "all-gather"}, row
    assert found["all-reduce"] <= SUMS[config] + shares_rays, row
    assert found.get("all-gather", 0) <= 1 + PICTURES[config] * shares_rays, row


def test_devices_divide_a_batch_and_scale_with_larger_batches(rows):
  """Strong scaling divides the work of a device; weak scaling changes neither its work nor its memory."""
  _, rows = rows
  one = rows["strong", 1]
  for (scaling, devices), row in rows.items():
    share = 1 / devices if scaling == "strong" else 1
    assert row["operations"] == pytest.approx(share * one["operations"], rel=0.03), row
    if share * one["trip_count"] > 8:  # otherwise another loop is the longest
      assert row["trip_count"] == share * one["trip_count"], row
    assert row["memory"] < 1.1 * one["memory"], row
