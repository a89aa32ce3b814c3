"""Where numbers and pictures go: `metrics.jsonl`, TensorBoard event files, PNG files, and the person at the terminal.

One line of `metrics.jsonl` is one step: {"step": 100, "gen/generator": 0.69, ...}; a value that is not finite is the
string "nan", "inf" or "-inf", since JSON has no such numbers. `step` counts finished updates; one may have two lines.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboardX import SummaryWriter
from tqdm import tqdm

from shapegan_jax.files import AnyPath, aside, copy, in_bucket, located


def write_png(path: str | AnyPath, image: UInt8[np.ndarray, "h w 3"]) -> None:
  """A PNG file, whole or not at all: a viewer never meets half a picture."""
  with aside(path) as temporary:
    Image.fromarray(image).save(temporary, format="PNG")


def write_text(path: str | AnyPath, text: str) -> None:
  """A text file, whole or not at all."""
  with aside(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


class MetricsWriter:
  """Appends to the logs of a workdir. A run resumed at `first_step` first drops what an earlier one logged after it.

  Nothing can be appended to in a bucket: logs are kept on this machine and copied there by `flush` and `close`.
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
    """One line and one event per value."""
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
    """Copy everything to the bucket, if it goes to one. Called before a checkpoint, what it goes on from is there."""
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
  """Keep the whole lines up to `last_step`: a killed run may have logged more, and the last line may be cut."""
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


class Averages:
  """Means of numbers since they were last taken."""

  def __init__(self):
    self._values: dict[str, list[float]] = {}

  def add(self, values: Mapping[str, float | int]) -> None:
    for name, value in values.items():
      self._values.setdefault(name, []).append(value)

  def take(self) -> dict[str, float]:
    means = {name: sum(values) / len(values) for name, values in self._values.items()}
    self._values = {}
    return means


class Progress:
  """On a terminal a bar with images/s and the time left; in a log file plain lines; nothing when not `active`."""

  def __init__(self, *, total: int, first_step: int = 0, active: bool = True):
    self._active, self._total, self._step, self._bar = active, total, first_step, None
    self._paused = 0.0
    self.restart_clock()
    if active and sys.stderr.isatty():
      layout = "{l_bar}{bar}| step {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"
      self._bar = tqdm(total=total, initial=first_step, bar_format=layout, dynamic_ncols=True, smoothing=0.05)

  def advance(self, images: int) -> None:
    """One more step, of `images` pictures, is done."""
    self._step += 1
    self._timed_steps += 1
    self._images += images
    if self._bar is not None:
      self._bar.set_postfix_str(f"{self.images_per_second:.1f} images/s", refresh=False)
      self._bar.update(1)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """The time inside does not count: a compilation or a preview is not a step."""
    begun = time.monotonic()
    yield
    self._paused += time.monotonic() - begun

  def seconds(self) -> float:
    """A clock that stands still while paused."""
    return time.monotonic() - self._paused

  def restart_clock(self) -> None:
    """Forget the steps so far: the speed is that of the steps to come."""
    self._started, self._images, self._timed_steps = self.seconds(), 0, 0

  @property
  def images_per_second(self) -> float:
    """Since the clock was last restarted."""
    return self._images / max(self.seconds() - self._started, 1e-9)

  def report(self, values: Mapping[str, float | int]) -> None:
    """Without a terminal: one line with step, speed, time left and the values."""
    if self._bar is not None or not self._active:
      return
    seconds = (self.seconds() - self._started) / max(self._timed_steps, 1)
    left = duration(seconds * (self._total - self._step)) if self._timed_steps else "?"
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    self.say(f"step {self._step}/{self._total}  {self.images_per_second:.1f} images/s  {left} left  {numbers}")

  def say(self, line: str) -> None:
    """A line for the reader, above the bar."""
    if self._bar is not None:
      self._bar.write(line)
    elif self._active:
      print(line, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()


def duration(seconds: float | int) -> str:
  """A length of time for people: "40 s", "12 min", "3 h 05 min"."""
  if seconds < 120:
    return f"{max(seconds, 1):.0f} s"
  minutes = round(seconds / 60)
  return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def byte_count(n: int) -> str:
  """A size for people: "850 MB", "1.3 GB"."""
  return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
