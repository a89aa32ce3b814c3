"""Sets in the layouts of their authors: synface (BFM faces with depth), GRAF's cats, GRAF's CARLA cars."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from shapegan_jax.data.folder import directory, open_folder
from shapegan_jax.data.images import square_box
from shapegan_jax.data.packed import PackedSource
from shapegan_jax.errors import UserError

SYNFACE_CROP = 170
SYNFACE_FOLDERS = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
NEAREST, FARTHEST = 0.9, 1.1  # Unsup3d's depth range; white is near, black is the background


@dataclasses.dataclass(frozen=True)
class SynfaceSource(PackedSource):
  """Faces; if there is a depth file also 'depth' float32 [size, size] along the optical axis and 'mask' bool."""

  root: Path
  crop: int

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    example = super().__getitem__(index)
    file = self.root / ("image/" + self.labels[index]).replace("image", "depth")
    if file.exists():
      example["depth"], example["mask"] = read_depth(file, example["image"].shape[0], crop=self.crop)
    return example


def read_depth(
  file: Path, size: int, *, crop: int
) -> tuple[Float32[np.ndarray, "size size"], Bool[np.ndarray, "size size"]]:
  """Depth of Unsup3d's picture g in [0, 1]: t = (1-g)*2 - 1, depth = 0.9 (1-t)/2 + 1.1 (1+t)/2; mask = depth < max.

  The first channel counts. 8-bit files are resized as 8-bit, as in the published evaluation, so that numbers are
  comparable: the depth step is 0.2/255, several degrees of slope at 64 pixels.
  """
  with Image.open(file) as image:
    image.load()
    if image.mode.startswith("I"):
      channel, white = Image.fromarray(np.asarray(image).astype(np.float32)), 65535.0
    else:
      channel, white = (image.convert("RGB") if image.mode == "P" else image).getchannel(0), 255.0
  box = square_box(*channel.size, min(crop, *channel.size))
  grey = np.asarray(channel.resize((size, size), Image.Resampling.BILINEAR, box=box), np.float32) / np.float32(white)
  depth = FARTHEST + np.float32(NEAREST - FARTHEST) * grey
  return depth.astype(np.float32), depth < depth.max()


def open_synface(
  path: str | os.PathLike | None,
  *,
  split: str = "train",
  image_size: int = 64,
  crop: int | None = None,
  num_examples: int | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> SynfaceSource:
  """`<path>/{train,val,test}/image/*.png`, and `.../depth/*.png` with 'image' replaced by 'depth' in the file name.

  `path` may also be the split's own folder. Crop: 170 pixels, as ShadeGAN, GOF and Unsup3d do.
  """
  root = _synface_folder(directory(path), split)
  crop = crop or SYNFACE_CROP
  packed = open_folder(
    root / "image", image_size=image_size, crop=crop, num_examples=num_examples, cache_dir=cache_dir, kind="synface"
  )
  return SynfaceSource(packed.pictures, packed.labels, root, crop)


def _synface_folder(root: Path, split: str) -> Path:
  names = SYNFACE_FOLDERS[split]
  others = {name for known in SYNFACE_FOLDERS.values() for name in known} - set(names)
  for folder in (*(root / name for name in names), root, root.parent):
    own = folder.name if folder in (root, root.parent) else None
    if (folder / "image").is_dir() and own not in others and (folder != root.parent or root.name == "image"):
      return folder
  raise UserError(
    f"data.path={root} does not hold the {split} split of synface: expected {root / names[0] / 'image'} with PNG files"
    " (and depth beside image), as in Unsup3d's synface.zip."
  )


def open_cats(
  path: str | os.PathLike | None,
  *,
  image_size: int = 64,
  crop: int | None = None,
  num_examples: int | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> PackedSource:
  """GRAF's cats: one flat folder of square crops with the eyes levelled, 64 pixels or larger; one split."""
  return open_folder(
    path, image_size=image_size, crop=crop, num_examples=num_examples, cache_dir=cache_dir, kind="cats"
  )


def open_carla(
  path: str | os.PathLike | None,
  *,
  image_size: int = 64,
  crop: int | None = None,
  background: str = "white",
  num_examples: int | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> PackedSource:
  """GRAF's CARLA cars: `<path>/images/*.png` (or the folder itself), alpha laid on `background`; poses are not read."""
  root = directory(path)
  return open_folder(
    root / "images" if (root / "images").is_dir() else root,
    image_size=image_size,
    crop=crop,
    background=background,
    num_examples=num_examples,
    cache_dir=cache_dir,
    kind="carla",
  )
