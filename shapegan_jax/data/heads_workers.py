"""Renders examples of `heads` in worker processes that import numpy and nothing else.

The workers are started as plain commands (`python -m shapegan_jax.data.heads_workers`), neither forked nor spawned by
`multiprocessing`: a fork of a process with a running jax can hang, and a spawned child would import the caller's main
module, and jax with it. Each writes pickled examples to its standard output; it ends when its work is done or its
parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shapegan_jax.data import heads_render

NORMAL_SCALE = 4096  # normals are stored as int16 multiples of 1/4096: half a step is 0.007 degrees


def stored_example(split: str, index: int, image_size: int) -> dict:
  """One example as it is written to disk: PNG bytes, int16 normals."""
  example = heads_render.render_example(split, index, image_size)
  return {
    "image": heads_render.encode_png(example["image"]),
    "albedo": heads_render.encode_png(example["albedo"]),
    "depth": example["depth"],
    "normals": np.round(example["normals"] * NORMAL_SCALE).astype(np.int16),
    "mask": example["mask"],
    "yaw": example["yaw"],
    "pitch": example["pitch"],
    "light": example["light"],
  }


def default_num_workers() -> int:
  """The processors this process may use, at most 16."""
  allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
  return min(allowed, 16)


def render_all(jobs: list[tuple[str, int]], image_size: int, *, num_workers: int) -> Iterator[dict]:
  """The stored examples of (split, index) jobs in order; `num_workers` 0 renders in this process."""
  num_workers = min(num_workers, len(jobs))
  if num_workers == 0:
    for split, index in jobs:
      yield stored_example(split, index, image_size)
    return
  workers = []
  try:
    for k in range(num_workers):
      workers.append(_start({"jobs": jobs[k::num_workers], "image_size": image_size}))
    for i in range(len(jobs)):  # the pipes buffer a few examples each, so that the workers run ahead and then wait
      yield pickle.load(workers[i % num_workers].stdout)
  except EOFError:
    raise RuntimeError("a rendering process of the heads set died; its error is printed above") from None
  finally:
    for worker in workers:
      worker.kill()
      worker.stdout.close()
      worker.wait()


def _start(task: dict) -> subprocess.Popen:
  package_parent = str(Path(__file__).resolve().parents[2])
  search = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
  one_thread = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
  worker = subprocess.Popen(
    [sys.executable, "-m", "shapegan_jax.data.heads_workers"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(search)},
    start_new_session=True,  # Ctrl-C reaches the parent only, which then ends its workers
  )
  with contextlib.suppress(BrokenPipeError), worker.stdin as stdin:
    stdin.write(json.dumps(task).encode())
  return worker


def main() -> None:
  task = json.load(sys.stdin)
  try:
    for split, index in task["jobs"]:
      pickle.dump(stored_example(split, index, task["image_size"]), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
      sys.stdout.buffer.flush()
  except BrokenPipeError:
    os._exit(0)  # the parent is gone: there is nothing left to do, not even to flush


if __name__ == "__main__":
  main()
