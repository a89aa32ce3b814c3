"""Where numbers and pictures go: `metrics.jsonl`, TensorBoard event files, PNG files.

One line of `metrics.jsonl` is one step: {"step": 100, "gen/generator": 0.69, ...}; a non-finite value is the string
"nan", "inf" or "-inf", since JSON has no such numbers. `step` counts finished updates; one may have two lines.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboardX import SummaryWriter

from shapegan_jax.files import AnyPath, aside, copy, in_bucket, located


def write_png(path: str | AnyPath, image: UInt8[np.ndarray, "h w 3"]) -> None:
  """Write a PNG file atomically: a reader never sees half a picture."""
  with aside(path) as temporary:
    Image.fromarray(image).save(temporary, format="PNG")


def write_text(path: str | AnyPath, text: str) -> None:
  """Write a text file atomically."""
  with aside(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


class MetricsWriter:
  """Appends to the logs of a workdir. A run resumed at `first_step` first drops later lines of an earlier run.

  Files in a bucket cannot be appended to: logs are kept on this machine and copied there by `flush` and `close`.
  """

  def __init__(self, workdir: str | AnyPath, *, first_step: int = 0, active: bool = True):
    """`active=False` (every process but one) writes nothing."""
    self._active = active
    if not active:
      return
    workdir, self._copies_to = located(workdir), None
    if in_bucket(workdir):
      self._folder, self._copies_to = tempfile.TemporaryDirectory(), workdir
      workdir = Path(self._folder.name)
      if (logged := self._copies_to / "metrics.jsonl").exists():
        write_text(workdir / logged.name, logged.read_text())
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "metrics.jsonl"
    _truncate(path, first_step)
    self._lines = path.open("a")
    # TensorBoard's own rule for the same thing: events from `purge_step` on, written before now, are not shown.
    self._events = SummaryWriter(str(workdir / "events"), purge_step=first_step + 1, flush_secs=30)

  def scalars(self, step: int, values: Mapping[str, float | int]) -> None:
    """Write one line, and one event per value."""
    if not self._active:
      return
    shown = {name: float(value) if math.isfinite(value) else str(float(value)) for name, value in values.items()}
    self._lines.write(json.dumps({"step": step, **shown}) + "\n")
    self._lines.flush()
    for name, value in values.items():
      if math.isfinite(value):
        self._events.add_scalar(name, float(value), step)

  def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """A picture in the event files."""
    if self._active:
      self._events.add_image(name, image, step, dataformats="HWC")

  def flush(self) -> None:
    """Copy everything to the bucket, if there is one. Called before a checkpoint, so that its logs are there."""
    if self._active and self._copies_to is not None:
      self._events.flush()
      self._copy()

  def close(self) -> None:
    if self._active:
      self._lines.close()
      self._events.close()
      if self._copies_to is not None:
        self._copy()
        self._folder.cleanup()

  def _copy(self) -> None:
    folder = Path(self._folder.name)
    for file in folder.rglob("*"):
      if file.is_file():
        copy(file, self._copies_to / file.relative_to(folder).as_posix())


def _truncate(path: Path, last_step: int) -> None:
  """Keep the complete lines up to `last_step`: a killed run may have logged more, and its last line may be cut off."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      if json.loads(line)["step"] <= last_step:
        kept.append(line + "\n")
    except (ValueError, KeyError, TypeError):
      continue
  write_text(path, "".join(kept))
