"""Processes of a run on several hosts, each with a parent process that reports why it ended.

When one process of such a run dies, jax terminates the others in the middle of a step with a page of its own log, and
their Python code can report nothing. Each is therefore started by a parent that only waits for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

WATCHED = "SHAPEGAN_WATCHED_BY"
"""Environment variable with the id of the parent process that waits for this one."""


def is_watched() -> bool:
  """Whether this process is the one that does the work. If so, on Linux it also arranges to die with its parent."""
  if os.environ.get(WATCHED) != str(os.getppid()):
    return False
  if sys.platform == "linux":
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
  return True


def watch() -> int:
  """Start this program again as a child process and wait for it; returns the exit code for this process.

  SIGTERM is forwarded. Ctrl-C reaches the child anyway.
  """
  child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | {WATCHED: str(os.getpid())})
  signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  code = child.wait()
  if code == -signal.SIGABRT:
    print(
      "error: another process of this run is gone, so this one was stopped too; see the last lines of the other's log, "
      "then start all of them again with the same commands: they resume from the newest checkpoint",
      file=sys.stderr,
      flush=True,
    )
    return 1
  return code if code >= 0 else 128 - code
