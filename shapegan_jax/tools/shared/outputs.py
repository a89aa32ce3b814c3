"""Checks of output paths, before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from shapegan_jax.errors import UserError


def check_output(path: Path, endings: tuple[str, ...], option: str = "--output") -> Path:
  """`path`, if a file of one of the `endings` (".png", ...) may be written there. Call before the work begins."""
  known = f"{', '.join(endings[:-1])} or {endings[-1]}" if len(endings) > 1 else endings[0]
  if path.is_dir():
    raise UserError(f"{option}={path}: is a folder; name a file in it, such as {path / ('out' + endings[0])}")
  if path.suffix.lower() not in endings:
    raise UserError(f"{option}={path}: must end in {known}; name a file such as {path.stem or 'out'}{endings[0]}")
  _can_hold(path.parent, option, path)
  return path


def check_folder(path: Path, option: str = "--output") -> Path:
  """`path`, if it is a folder or may become one. Call before the work begins."""
  if path.exists() and not path.is_dir():
    raise UserError(f"{option}={path}: is a file; name a folder")
  _can_hold(path, option, path)
  return path


def _can_hold(folder: Path, option: str, named: Path) -> None:
  nearest = folder.absolute()
  while not nearest.exists():
    nearest = nearest.parent
  if not nearest.is_dir() or not os.access(nearest, os.W_OK):
    raise UserError(f"{option}={named}: {nearest} cannot be written to; choose another place")
