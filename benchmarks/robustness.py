"""Whether unposed training finds convex, deep, smooth shapes from every seed. Prints the README's robustness table.

  python -m benchmarks.robustness --workdir=runs/robustness
  python -m benchmarks.robustness --workdir=runs/robustness --config=configs/pigan.py --seeds=0,1,2 --steps=500 --jobs=2

Trains the config once per seed (an existing run is resumed) and measures 256 samples of each by `--mode=eval`.
`--jobs` runs at a time, each on its own share of the processors.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from absl import app, flags

_CONFIG = flags.DEFINE_string("config", "configs/shadegan.py", "Config, as for shapegan_jax.main.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/robustness", "Folder of the runs: one folder a seed.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds.")
_STEPS = flags.DEFINE_integer("steps", 1000, "Steps of each run.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time.")

LIMITS = {
  "shape/convex_share": lambda value: value >= 0.95,
  "shape/depth_deviation_ratio": lambda value: 0.5 <= value <= 1.5,
  "shape/normal_disagreement_deg": lambda value: value < 20,
}


def measure(seed: str, processors: set[int]) -> dict:
  """Train and evaluate one seed; the numbers of its `eval.json`."""
  workdir = Path(_WORKDIR.value) / f"seed{seed}"
  workdir.mkdir(parents=True, exist_ok=True)
  common = [sys.executable, "-m", "shapegan_jax.main", f"--workdir={workdir / 'run'}", f"--config={_CONFIG.value}"]
  train = [f"--config.seed={seed}", f"--config.num_steps={_STEPS.value}"]
  quiet = ["--config.evaluation.samples=0", f"--config.preview.every={_STEPS.value}"]
  with (workdir / "log.txt").open("a") as log:
    for arguments in ([*common, *train, *quiet], [*common, "--mode=eval"]):
      share = lambda: os.sched_setaffinity(0, processors)  # noqa: E731
      subprocess.run(arguments, check=True, stdout=log, stderr=subprocess.STDOUT, preexec_fn=share)
  return json.loads((workdir / "run" / "eval.json").read_text())


def main(argv: list[str]) -> None:
  del argv
  processors = sorted(os.sched_getaffinity(0))
  shares: Queue[set[int]] = Queue()
  for job in range(_JOBS.value):
    shares.put(set(processors[job :: _JOBS.value]))

  def run(seed: str) -> dict:
    share = shares.get()
    try:
      return measure(seed, share)
    finally:
      shares.put(share)

  with ThreadPoolExecutor(_JOBS.value) as pool:
    rows = dict(zip(_SEEDS.value, pool.map(run, _SEEDS.value), strict=True))
  print(f"{_CONFIG.value}, step {_STEPS.value}; {platform.machine()}, {len(processors)} processors\n")
  print("| seed | convex samples | depth deviation / data's | gradient against depth normals | all within limits |")
  print("|---|---|---|---|---|")
  for seed, row in rows.items():
    convex, ratio, angle = (row[name] for name in LIMITS)
    verdict = "yes" if all(within(row[name]) for name, within in LIMITS.items()) else "**no**"
    print(f"| {seed} | {convex:.1%} of {row['samples']} | {ratio:.2f} | {angle:.1f}° | {verdict} |")
  (Path(_WORKDIR.value) / "robustness.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
  app.run(main)
