"""Files that are whole or not there: written aside, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shapegan_jax.errors import UserError


@contextlib.contextmanager
def aside(path: str | Path) -> Iterator[Path]:
  """A place beside `path`, with its ending, to write a file (or make a folder): it becomes `path` if all goes well.

  Otherwise it is removed and whatever was at `path` stays. Missing folders are made.

  Raises:
    UserError: the file system refuses (no permission, disk full, ...).
  """
  path = Path(path)
  temporary = path.with_name(f".{os.getpid()}.{path.name}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield temporary
    temporary.replace(path)
  except OSError as error:
    raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
  finally:
    if os.path.isdir(temporary):  # unlike the method, it never raises
      shutil.rmtree(temporary, ignore_errors=True)
    else:
      with contextlib.suppress(OSError):
        temporary.unlink()
