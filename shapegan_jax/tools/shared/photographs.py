"""The photographs of a command: a file or a folder of them, and their masks."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from shapegan_jax.errors import UserError

if TYPE_CHECKING:
  import numpy as np


def find_photographs(input: Path, output: Path) -> list[Path]:
  """The picture files that `--input` names.

  Raises:
    UserError: there are none, or outputs in `output` would lie among them.
  """
  from shapegan_jax.data.folder import list_images

  if input.is_dir():
    try:
      found = [input / file for file in list_images(input)]
    except UserError as error:
      raise UserError(f"--input={input}: {error}") from None
    root = input.resolve()
    if root in (output.resolve(), *output.resolve().parents):
      raise UserError(f"--output={output}: lies in the folder of the photographs; choose another")
    return found
  if not input.is_file():
    raise UserError(f"--input={input}: no such file or folder; name a photograph or a folder of them")
  if output.resolve() == input.resolve().parent:
    raise UserError(f"--output={output}: is the folder of the photograph; choose another")
  return [input]


def check_mask(input: Path, mask: Path | None) -> None:
  """A `UserError` for a `--mask` that does not match the `--input`."""
  if mask is not None and not mask.exists():
    raise UserError(f"--mask={mask}: no such file or folder")
  if mask is not None and mask.is_dir() != input.is_dir():
    raise UserError(f"--mask={mask}: must be a file for a photograph, a folder for a folder")


def read_square(path: Path, size: int, background: tuple[int, int, int], option: str = "--input") -> np.ndarray:
  """[size, size, 3] in [0, 1]: the centred square of a picture file, transparent pixels laid on `background` (0..255).

  Raises:
    UserError: the file is missing or not a picture.
  """
  import numpy as np

  from shapegan_jax.data.images import describe, load_square

  if not path.is_file():
    raise UserError(f"{option}: {path}: no such file")
  try:
    return load_square(path, size, background=background).astype(np.float32) / np.float32(255)
  except Exception as error:  # Pillow raises almost anything for a damaged file
    raise UserError(f"{option}: {path}: cannot be read as a picture ({describe(error)})") from error


def read_mask(path: Path, size: int) -> np.ndarray:
  """[size, size] in [0, 1]: white is the object.

  Raises:
    UserError: the file is missing, not a picture, or black everywhere.
  """
  inside = read_square(path, size, (0, 0, 0), "--mask").mean(-1)
  if not inside.max() > 0:
    raise UserError(f"--mask={path}: is black everywhere; it must be white where the object is")
  return inside


def photograph_name(path: Path, input: Path) -> str:
  """The base name of the files of a photograph: its own name, with the folders below `input`."""
  relative = path.relative_to(input) if input.is_dir() else Path(path.name)
  return relative.with_suffix("").as_posix().replace("/", "-")


def mask_of(path: Path, input: Path, mask: Path | None) -> Path | None:
  """The mask of a photograph. In a folder it has the photograph's name, whatever the ending."""
  if mask is None or mask.is_file():
    return mask
  wanted = mask / path.relative_to(input)
  found: Iterable[Path] = [wanted, *sorted(wanted.parent.glob(f"{glob.escape(wanted.stem)}.*"))]
  return next((candidate for candidate in found if candidate.is_file()), wanted)
