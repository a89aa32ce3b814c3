"""`named`: any image set of TensorFlow Datasets, read without TensorFlow from its array_record files."""

from __future__ import annotations

import os

import numpy as np

from shapegan_jax.data.images import array_to_square
from shapegan_jax.data.packed import PackedSource, pack
from shapegan_jax.errors import UserError

# Pixels of the set's own pictures: "short side to 320, centre crop of 256" of 178x218 (pi-GAN, GOF, ShadeGAN).
PUBLISHED_CROPS = {"celeb_a": 142}


def open_named(
  tfds_name: str | None,
  *,
  split: str = "train",
  data_dir: str | os.PathLike | None = None,
  image_size: int = 64,
  crop: int | None = None,
  num_examples: int | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> PackedSource:
  """The pictures of `tfds.data_source(tfds_name, split=split)`, cropped, resized and prepared once.

  Nothing is downloaded: sets have many gigabytes and their own terms, so users fetch them themselves.

  Args:
    tfds_name: as in `tfds.builder`, e.g. "celeb_a" or "celeb_a_hq/256".
    data_dir: where TFDS stores its sets, if not in the default place.
    crop: side of the centred square in pixels; None takes the papers' crop of a set they used, else the short side.

  Raises:
    UserError: no such set or split, a set that is not prepared (with the command that prepares it), or without images.
  """
  if not tfds_name:
    raise UserError("data.tfds_name is not set: name a TFDS image set, for example --config.data.tfds_name=celeb_a.")
  records = _open_records(tfds_name, split, data_dir)
  key = _image_key(records[0], tfds_name)
  count = min(len(records), num_examples or len(records))
  crop = crop or PUBLISHED_CROPS.get(tfds_name.split("/")[0].split(":")[0])
  info = records.dataset_info
  return pack(
    lambda k: array_to_square(np.asarray(records[k][key]), image_size, crop=crop),
    [f"{split}[{k}]" for k in range(count)],
    size=image_size,
    kind=info.name,
    origin=info.full_name,
    recipe={"set": info.full_name, "directory": str(info.data_dir), "crop": crop, "feature": key},
    cache_dir=cache_dir,
  )


def _open_records(tfds_name: str, split: str, data_dir: str | os.PathLike | None):
  import tensorflow_datasets as tfds

  where = f", data_dir={str(data_dir)!r}" if data_dir else ""
  command = (
    'python -c "import tensorflow_datasets as tfds;'
    f" tfds.builder({tfds_name!r}, file_format='array_record'{where}).download_and_prepare()\""
  )
  try:
    records = tfds.data_source(tfds_name, split=split, data_dir=data_dir, download=False)
    empty = len(records) == 0
  except tfds.core.registered.DatasetNotFoundError as error:
    raise UserError(
      f"data.tfds_name={tfds_name!r} is not a TFDS set: see https://www.tensorflow.org/datasets."
    ) from error
  except (NotImplementedError, FileNotFoundError, AssertionError) as error:
    raise UserError(f"The TFDS set {tfds_name!r} is not prepared as array_record: run {command}") from error
  except (ValueError, KeyError) as error:
    known = ", ".join(tfds.builder(tfds_name, data_dir=data_dir).info.splits)
    raise UserError(f"The TFDS set {tfds_name!r} has no split {split!r}: choose data.split from {known}.") from error
  if empty:
    raise UserError(f"The split {split!r} of the TFDS set {tfds_name!r} is empty: choose another data.split.")
  return records


def _image_key(example: dict, tfds_name: str) -> str:
  pictures = [
    key
    for key, value in example.items()
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] in (1, 3, 4)
  ]
  if not pictures:
    raise UserError(
      f"The TFDS set {tfds_name!r} has no images among its features ({', '.join(example)}): name another."
    )
  return "image" if "image" in pictures else pictures[0]
