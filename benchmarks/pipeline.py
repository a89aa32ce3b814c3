"""Throughput of the data pipeline alone, in pictures per second: it must exceed that of the fastest step.

  python -m benchmarks.pipeline
  python -m benchmarks.pipeline --folder=data/cats --image_size=64

For the embedded heads, and a folder of pictures (by default PNG files of noise). "prepared" is done once per folder:
pictures are decoded, cropped and stored in one file; "first" is the first epoch, which also resizes them, "later" the
median of the later epochs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from absl import app, flags

from shapegan_jax.data.pipeline import batches
from shapegan_jax.data.sources import Source, open_source
from shapegan_jax.schedules import Stage

_FOLDER = flags.DEFINE_string("folder", None, "A folder of pictures.")
_SIZE = flags.DEFINE_integer("image_size", 128, "Pixels that a folder's pictures are prepared at.")
_BATCH = flags.DEFINE_integer("batch", 16, "Pictures of a batch.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Number of epochs.")


def rates(source: Source, resolution: int) -> tuple[float, float]:
  """Pictures per second in the first epoch, and in the median later one."""
  steps = max(1, len(source) // _BATCH.value)
  stages = ((0, Stage(resolution, _BATCH.value)),)
  stream = batches(source, stages, first_step=0, num_steps=steps * _EPOCHS.value, seed=0)
  seconds = []
  for _ in range(_EPOCHS.value):
    begun = time.perf_counter()
    for _ in range(steps):
      next(stream)
    seconds.append(time.perf_counter() - begun)
  return steps * _BATCH.value / seconds[0], steps * _BATCH.value / statistics.median(seconds[1:])


def print_row(name: str, prepared: str, source: Source, resolution: int) -> None:
  """Print a row of the table."""
  first, later = rates(source, resolution)
  print(f"| {name} | {prepared} | {first:.0f} / s | {later:.0f} / s |")


def noise_pictures(folder: Path, count: int = 512, size: int = 178) -> None:
  """PNG files of noise, of the size of CelebA's, which compress worse than photographs."""
  random = np.random.default_rng(0)
  for index in range(count):
    imageio.imwrite(folder / f"{index:05d}.png", random.integers(0, 256, (size, size, 3), np.uint8))


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  if _EPOCHS.value < 2:
    raise app.UsageError(f"--epochs={_EPOCHS.value}: two or more are needed, the first and later ones")
  with tempfile.TemporaryDirectory() as made:
    if _FOLDER.value is None:
      noise_pictures(Path(made))
    folder, size = _FOLDER.value or made, _SIZE.value
    print("| pictures | prepared | first | later |\n|---|---|---|---|")
    heads = open_source({"name": "heads"})
    for resolution in (64, 32):
      print_row(f"heads, at {resolution}", "before", heads, resolution)
    with tempfile.TemporaryDirectory() as fresh:  # prepared anew
      begun = time.perf_counter()
      source = open_source({"name": "folder", "path": folder, "image_size": size, "cache_dir": fresh})
      prepared = f"{len(source) / (time.perf_counter() - begun):.0f} / s"
      print_row(f"{_FOLDER.value or 'PNG files of 178'}, at {size}", prepared, source, size)


if __name__ == "__main__":
  app.run(main)
