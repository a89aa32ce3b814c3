"""Atomic files, complete or absent: written to a temporary path, then renamed; for a bucket, copied there."""

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
"""A path on this machine or in a bucket, as `located` returns it."""


def located(path: str | AnyPath) -> AnyPath:
  """`path` as a local path, or as a bucket path if it begins with gs://.

  Raises:
    UserError: it is in a bucket, and the extra `[gcs]` is not installed.
  """
  if not in_bucket(path):
    return Path(path)
  if find_spec("gcsfs") is None:
    raise UserError(f"{path}: access to buckets needs an extra; pip install -e '.[gcs]'")
  return epath.Path(path)


def in_bucket(path: str | AnyPath) -> bool:
  """Whether `path` is in a bucket, where files are written whole: no appending, no renaming."""
  return str(path).startswith("gs://")


@contextlib.contextmanager
def aside(path: str | AnyPath) -> Iterator[Path]:
  """A temporary path next to `path`, with the same suffix, for a file or folder that replaces `path` on success.

  On failure it is removed and `path` stays unchanged. Missing parent folders are created. A file for a bucket is first
  written on this machine.

  Raises:
    UserError: it cannot be written (no permission, disk full, ...).
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
    if os.path.isdir(temporary):  # unlike Path.is_dir, it never raises
      shutil.rmtree(temporary, ignore_errors=True)
    else:
      with contextlib.suppress(OSError):
        temporary.unlink()


def copy(file: Path, target: AnyPath) -> None:
  """Copy a local file to a bucket, where it appears only when it is complete.

  Raises:
    UserError: the bucket cannot be written.
  """
  try:
    epath.Path(file).copy(target, overwrite=True)
  except Exception as error:  # of any type, depending on the library behind epath
    raise UserError(f"{target}: cannot be written ({error}); does this account have write access?") from error
