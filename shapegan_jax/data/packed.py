"""Prepared pictures: a list of pictures of any origin becomes one uint8 array [n, size, size, 3] on disk.

The array lives in `<cache_dir>/<kind>/<size>px-<digest>/`. The digest covers everything that the pixels depend on (the
files' names, sizes and times, the crop), so a changed folder or setting gives a new array and an unchanged one opens at
once, in any process. It is memory-mapped: the operating system caches what fits, and training never decodes a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from shapegan_jax.data.images import describe
from shapegan_jax.errors import UserError

VERSION = 1  # increase it when the pixels made from the same files change
_STALE_SECONDS = 3600.0
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PackedSource:
  """A random-access sequence of {'image': uint8 [size, size, 3]}; `labels[i]` tells where example i comes from."""

  pictures: UInt8[np.ndarray, "n size size 3"]
  labels: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.pictures)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {"image": np.array(self.pictures[index])}

  def images(self) -> UInt8[np.ndarray, "n size size 3"]:
    """All pictures at once, without decoding anything."""
    return self.pictures


def default_cache_dir() -> Path:
  """`$SHAPEGAN_CACHE`, or `~/.cache/shapegan_jax`, as for `heads`."""
  return Path(os.environ.get("SHAPEGAN_CACHE") or "~/.cache/shapegan_jax").expanduser()


def pack(
  read: Callable[[int], UInt8[np.ndarray, "size size 3"]],
  labels: Sequence[str],
  *,
  size: int,
  kind: str,
  origin: str,
  recipe: Mapping[str, Any],
  cache_dir: str | os.PathLike | None = None,
) -> PackedSource:
  """`read(k)` for every label, in order, stored in the cache; unreadable pictures are counted, named and skipped.

  Args:
    read: called from several threads; any exception means that picture k is unreadable.
    labels: where each picture comes from, for messages.
    kind, origin: "folder", "cats" ...; and the location, as the user gave it.
    recipe: JSON values; everything that the pixels depend on besides labels and size.
    cache_dir: `default_cache_dir()` if None. Several processes may prepare the same pictures at the same time.
  """
  root = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
  identity = json.dumps([VERSION, kind, size, list(labels), dict(recipe)], sort_keys=True)
  home = root / kind / f"{size}px-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
  if not (home / "index.json").exists():
    _write(read, labels, size=size, home=home, origin=origin)
  index = json.loads((home / "index.json").read_text())
  if index["skipped"]:
    named = ", ".join(f"{_printable(labels[k])} ({reason})" for k, reason in index["skipped"][:3])
    more = ", ..." if len(index["skipped"]) > 3 else ""
    _log.warning(
      "%s: skipped %d of %d unreadable images: %s%s", origin, len(index["skipped"]), len(labels), named, more
    )
  pictures = np.memmap(home / "pictures.u8", np.uint8, "r", shape=(len(index["kept"]), size, size, 3))
  return PackedSource(pictures, tuple(labels[k] for k in index["kept"]))


def _write(read: Callable, labels: Sequence[str], *, size: int, home: Path, origin: str) -> None:
  """Fills a directory beside `home` and renames it: readers see all or nothing, even if the process dies."""
  wanted = len(labels) * size * size * 3
  partial = None
  try:
    home.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(home)
    if (free := shutil.disk_usage(home.parent).free) < wanted:
      raise UserError(
        f"Preparing {len(labels):,} images at {size}x{size} needs {wanted / 1e9:.1f} GB, but {home.parent} has"
        f" {free / 1e9:.1f} GB free: set data.cache_dir to another disk, or lower data.image_size or data.num_examples."
      )
    partial = Path(tempfile.mkdtemp(prefix=f"{home.name}.partial-", dir=home.parent))
    kept, skipped = [], []
    with open(partial / "pictures.u8", "wb") as file:
      for k, (picture, reason) in enumerate(_read_all(read, len(labels), f"preparing {size}x{size} images")):
        if picture is None:
          skipped.append((k, reason))
        else:
          kept.append(k)
          file.write(np.ascontiguousarray(picture).data)
    (partial / "index.json").write_text(json.dumps({"origin": origin, "kept": kept, "skipped": skipped}))
    if kept:
      try:
        partial.rename(home)
      except OSError:
        if not (home / "index.json").exists():  # otherwise another process was faster, with the same bytes
          raise
    else:
      raise UserError(
        f"None of the {len(labels)} images in {origin} can be read (first: {_printable(labels[0])}, {skipped[0][1]}):"
        " check that they open in an image viewer."
      )
  except OSError as error:
    raise UserError(
      f"Cannot keep prepared images in {home.parent} ({error.strerror}): set data.cache_dir or SHAPEGAN_CACHE."
    ) from error
  finally:
    if partial:
      shutil.rmtree(partial, ignore_errors=True)


def _remove_stale(home: Path) -> None:
  """Removes the leftovers of killed processes: partial arrays that have not been written to for an hour."""
  for leftover in home.parent.glob(f"{home.name}.partial-*"):
    with contextlib.suppress(OSError):  # it may be renamed or removed at any time
      file = leftover / "pictures.u8"
      if time.time() - (file if file.exists() else leftover).stat().st_mtime > _STALE_SECONDS:
        shutil.rmtree(leftover, ignore_errors=True)


def _read_all(read: Callable, count: int, title: str) -> Iterator[tuple[np.ndarray | None, str]]:
  """(picture, '') or (None, reason) in order, decoded on all cores (Pillow releases the interpreter lock)."""
  from tqdm import tqdm

  def attempt(k: int) -> tuple[np.ndarray | None, str]:
    try:
      return read(k), ""
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
      return None, describe(error)

  workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  with warnings.catch_warnings(), ThreadPool(workers) as pool:
    warnings.simplefilter("ignore")  # odd metadata does not matter among thousands of files
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    yield from tqdm(pool.imap(attempt, range(count)), title, count, unit="images", leave=False, delay=0.5)


def _printable(label: str) -> str:
  return label.encode(errors="replace").decode()
