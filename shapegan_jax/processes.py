"""A process of a run on several hosts, and the one beside it that says why it ended.

When a process of such a run dies, jax ends the others from inside, mid-step, with a page of its own log: no Python of
theirs can say anything any more. So each is started by a process that does nothing but wait for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

WATCHED = "SHAPEGAN_WATCHED_BY"
"""Environment: the process that waits for this one."""


def is_watched() -> bool:
  """Whether this is the process that does the work. On Linux it then dies with the one that watches it."""
  if os.environ.get(WATCHED) != str(os.getppid()):
    return False
  if sys.platform == "linux":
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
  return True


def watch() -> int:
  """Start this program again, as a watched process, and wait until it ends. Returns the exit code for this one.

  SIGTERM is passed on. Ctrl-C reaches the other process anyway.
  """
  child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | {WATCHED: str(os.getpid())})
  signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  code = child.wait()
  if code == -signal.SIGABRT:
    print(
      "error: another process of this run is gone, so this one was ended too; see what the other said last, then start "
      "all of them again with the same commands: they go on from the newest checkpoint",
      file=sys.stderr,
      flush=True,
    )
    return 1
  return code if code >= 0 else 128 - code
