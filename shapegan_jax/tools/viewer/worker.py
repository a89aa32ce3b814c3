"""The thread that renders for the viewer: the newest request wins, at low resolution while requests keep coming."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

QUICK = 0.1  # seconds: full pictures that are this fast need no small one first


class Worker(Generic[T]):
  """Calls `draw(request, size)` in a thread of its own, from `start` to `stop`.

  A new request is rendered at the small size at once and, if no other arrives within `settle` seconds, at the full
  size. Requests that arrive during rendering replace each other.
  """

  def __init__(
    self,
    draw: Callable[[T, int], None],
    *,
    small: int,
    full: int,
    settle: float = 0.25,
    between: Callable[[], None] = lambda: None,
    failed: Callable[[Exception], None] = lambda error: None,
    every: float = 1.0,
  ):
    """Args:
    small, full: sizes that are passed to `draw`.
    between: called in the thread after each picture and at least `every` seconds; it may make requests.
    failed: called with an exception of `draw` or `between`. The thread continues.
    """
    self._draw, self._small, self._full, self._settle = draw, small, full, settle
    self._between, self._failed, self._every = between, failed, every
    self._changed = threading.Condition()
    self._wanted: T | None = None
    self._version, self._drawn, self._stopping = 0, 0, False
    self._full_seconds = float("inf")
    self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)

  def start(self) -> None:
    self._thread.start()

  def stop(self, timeout: float = 5.0) -> bool:
    """End after the current picture. Returns whether it finished within this number of seconds."""
    with self._changed:
      self._stopping = True
      self._changed.notify_all()
    if self._thread.is_alive():
      self._thread.join(timeout)
    return not self._thread.is_alive()

  def request(self, wanted: T, *, again: bool = False) -> None:
    """Render this next, unless it equals the last request (and not `again`). May be called from any thread."""
    with self._changed:
      if again or wanted != self._wanted:
        self._wanted, self._version = wanted, self._version + 1
        self._changed.notify_all()

  def _run(self) -> None:
    while not self._stopping:
      with self._changed:
        self._changed.wait_for(lambda: self._stopping or self._version > self._drawn, self._every)
        wanted, version = self._wanted, self._version
      if not self._stopping and version > self._drawn:
        if self._full_seconds > QUICK and self._small < self._full:
          self._attempt(wanted, self._small)
          self._attempt_between()
          rested = not self._newer_than(version, self._settle)
        else:
          rested = True
        if rested and not self._stopping:
          begun = time.monotonic()
          self._attempt(wanted, self._full)
          self._full_seconds = time.monotonic() - begun
        self._drawn = version
      self._attempt_between()

  def _newer_than(self, version: int, seconds: float) -> bool:
    """Whether another request (or the end) arrives within this number of seconds."""
    with self._changed:
      return self._changed.wait_for(lambda: self._stopping or self._version > version, seconds)

  def _attempt(self, wanted: T, size: int) -> None:
    try:
      self._draw(wanted, size)
    except Exception as error:  # if the thread died, the picture would no longer respond
      self._failed(error)

  def _attempt_between(self) -> None:
    if self._stopping:
      return
    try:
      self._between()
    except Exception as error:
      self._failed(error)
