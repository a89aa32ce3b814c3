"""Draws a run's curves from its metrics.jsonl: losses, logits, R1, pose, and the shape metrics.

pip install matplotlib && python -m benchmarks.curves --workdir=runs/heads --output=curves.png
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import app, flags

_WORKDIR = flags.DEFINE_string("workdir", "runs/heads", "Folder of the run.")
_OUTPUT = flags.DEFINE_string("output", "curves.png", "Picture to write.")

PANELS = {
  "losses": ("disc/discriminator", "gen/generator"),
  "logits": ("disc/real_logits", "disc/fake_logits"),
  "penalties": ("disc/r1", "gen/pose"),
  "shape": ("shape/convex_share", "shape/depth_deviation_ratio"),
  "normals against depth, degrees": ("shape/normal_disagreement_deg",),
}


def main(argv: list[str]) -> None:
  del argv
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  lines = (Path(_WORKDIR.value) / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 2.6), constrained_layout=True)
  for axis, (title, names) in zip(axes, PANELS.items(), strict=True):
    for name in names:
      points = [(row["step"], row[name]) for row in rows if name in row]
      axis.plot(
        *zip(*points, strict=True), label=name.split("/")[1], linewidth=1, marker="." if len(points) < 20 else ""
      )
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
  figure.savefig(_OUTPUT.value, dpi=110)


if __name__ == "__main__":
  app.run(main)
