"""Files that are whole or not there: written aside, then renamed; or, in a bucket, copied there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from etils import epath

from shapegan_jax.errors import UserError

AnyPath = Path | epath.Path
"""On this machine, or in a bucket; what `located` returns."""


def located(path: str | AnyPath) -> AnyPath:
  """`path` on this machine, or in a bucket where it begins with gs://.

  Raises:
    UserError: a bucket, and the extra is missing.
  """
  if not in_bucket(path):
    return Path(path)
  if find_spec("gcsfs") is None:
    raise UserError(f"{path}: needs what speaks to buckets; pip install -e '.[gcs]'")
  return epath.Path(path)


def in_bucket(path: str | AnyPath) -> bool:
  """A bucket knows only whole files: no appending, no renaming."""
  return str(path).startswith("gs://")


@contextlib.contextmanager
def aside(path: str | AnyPath) -> Iterator[Path]:
  """A place beside `path`, with its ending, to write a file (or make a folder): it becomes `path` if all goes well.

  Otherwise it is removed and whatever was at `path` stays. Missing folders are made. A file for a bucket is written on
  this machine first.

  Raises:
    UserError: the file system refuses (no permission, disk full, ...).
  """
  path = located(path)
  if in_bucket(path):
    with tempfile.TemporaryDirectory() as folder:
      yield Path(folder) / path.name
      copy(Path(folder) / path.name, path)
    return
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


def copy(file: Path, target: AnyPath) -> None:
  """Copy a file of this machine to a bucket, where it appears when it is whole.

  Raises:
    UserError: the bucket refuses.
  """
  try:
    epath.Path(file).copy(target, overwrite=True)
  except Exception as error:  # of whatever library speaks to the bucket
    raise UserError(f"{target}: cannot be written ({error}); may this account write there?") from error
