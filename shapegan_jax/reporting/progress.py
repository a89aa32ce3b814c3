"""Progress of a run on the terminal: speed, time left, numbers; and how durations and sizes are written."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

ProgressBar = Callable[[Iterable[T], str], Iterable[T]]
"""(items, label) -> the same items, such as `progress` below."""


class Averages:
  """Means of numbers since the last `take`."""

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
  """A bar with images/s and the time left on a terminal, plain lines in a log file, nothing if not `active`."""

  def __init__(self, *, total: int, first_step: int = 0, active: bool = True):
    self._active, self._total, self._step, self._bar = active, total, first_step, None
    self._paused = 0.0
    self.restart_clock()
    if active and sys.stderr.isatty():
      layout = "{l_bar}{bar}| step {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"
      self._bar = tqdm(total=total, initial=first_step, bar_format=layout, dynamic_ncols=True, smoothing=0.05)

  def advance(self, images: int) -> None:
    """Count a step of `images` pictures."""
    self._step += 1
    self._timed_steps += 1
    self._images += images
    if self._bar is not None:
      self._bar.set_postfix_str(f"{self.images_per_second:.1f} images/s", refresh=False)
      self._bar.update(1)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Exclude the time inside, such as that of a compilation or a preview."""
    begun = time.monotonic()
    yield
    self._paused += time.monotonic() - begun

  def seconds(self) -> float:
    """Seconds on a clock that stops while paused."""
    return time.monotonic() - self._paused

  def restart_clock(self) -> None:
    """Measure the speed from now on."""
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
    """Print a line above the bar."""
    if self._bar is not None:
      self._bar.write(line)
    elif self._active:
      print(line, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()


def duration(seconds: float | int) -> str:
  """A human-readable duration: "40 s", "12 min", "3 h 05 min"."""
  if seconds < 120:
    return f"{max(seconds, 1):.0f} s"
  minutes = round(seconds / 60)
  return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def byte_count(n: int) -> str:
  """A human-readable size: "850 MB", "1.3 GB"."""
  return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
  """The items, under a progress bar on stderr that appears when they take longer than a second."""
  yield from tqdm(items, desc=label, total=total, delay=1, leave=False, dynamic_ncols=True)
