"""`folder`: any directory of images of one kind of object, with its sub-directories. Every image is in every split.

CelebA as the pi-GAN family trains on it (short side to 320, centre crop of 256) is `crop=142` on the aligned 178x218
files: 178 * 256 / 320 = 142.4 pixels of the original.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shapegan_jax.data.images import background_color, load_square
from shapegan_jax.data.packed import PackedSource, pack
from shapegan_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def open_folder(
  path: str | os.PathLike | None,
  *,
  image_size: int = 64,
  crop: int | None = None,
  background: str = "white",
  num_examples: int | None = None,
  cache_dir: str | os.PathLike | None = None,
  kind: str = "folder",
) -> PackedSource:
  """The pictures of a directory, sorted by name so that every machine sees the same order; prepared once.

  Args:
    crop: side of the centred square in pixels of the file; None takes the whole short side.
    num_examples: keep only this many files, the first ones.
    kind: the name of the set in messages and in the cache.

  Raises:
    UserError: the directory is missing, not a directory, or holds no readable image.
  """
  root = directory(path)
  files = list_images(root)[:num_examples]
  color = background_color(background)
  stats = [(root / file).stat() if (root / file).exists() else None for file in files]
  return pack(
    lambda k: load_square(root / files[k], image_size, crop=crop, background=color),
    files,
    size=image_size,
    kind=kind,
    origin=str(root),
    recipe={
      "root": str(root.resolve()),
      "crop": crop,
      "background": color,
      "files": [stat and (stat.st_size, stat.st_mtime_ns) for stat in stats],
    },
    cache_dir=cache_dir,
  )


def directory(path: str | os.PathLike | None) -> Path:
  """`path` as an existing directory, or a `UserError` that tells what it is instead."""
  if not path:
    raise UserError("data.path is not set: give the folder that holds the images, --config.data.path=FOLDER.")
  root = Path(path).expanduser()
  if root.is_dir():
    return root
  if root.exists():
    raise UserError(f"data.path={root} is a file, not a folder of images: unpack it, or give the folder that holds it.")
  raise UserError(f"data.path={root} does not exist: give the folder that holds the images.")


def list_images(root: Path) -> list[str]:
  """Paths below `root`, sorted, of all files with an image's extension. Hidden files and folders are ignored, links
  are followed, and a folder that is reached twice (or in a cycle) is read once."""
  files = sorted(Path(file).relative_to(root).as_posix() for file in _walk(root))
  if not files:
    raise UserError(f"No images in {root} or the folders in it: looked for {' '.join(EXTENSIONS)}.")
  return files


def _walk(root: Path) -> Iterator[str]:
  seen = set()

  def fail(error: OSError) -> None:
    raise UserError(f"Cannot list {error.filename} ({error.strerror}): make it readable or move it out of {root}.")

  for parent, folders, names in os.walk(root, followlinks=True, onerror=fail):
    status = os.stat(parent)
    if (status.st_dev, status.st_ino) in seen:
      folders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
    yield from (os.path.join(parent, n) for n in names if n.lower().endswith(EXTENSIONS) and not n.startswith("."))
