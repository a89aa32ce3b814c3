"""The embedded data set `heads`: rendered 3D heads with known camera, light, albedo, depth, normals and mask.

Prepared once by our own renderer (`heads_render`) as a TFDS set in array_record files, without TensorFlow and without
any download, then read by random access. Example i of a split depends only on (split, i, image_size).

  directory = heads.prepare(64)
  source = heads.HeadsSource(directory, "train")
  source[0]["image"], source[0]["depth"], source.images()
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, UInt8
from PIL import Image
from tqdm import tqdm

from shapegan_jax.data import heads_model, heads_workers
from shapegan_jax.data.packed import default_cache_dir
from shapegan_jax.errors import UserError

try:
  import fcntl
except ImportError:  # no file locks on this system: two simultaneous preparations then both do the work
  fcntl = None

VERSION = "1.0.0"
DEFAULT_COUNTS = {"train": 4000, "validation": 256, "test": 256}
SMOKE_COUNTS = {"train": 256, "validation": 16, "test": 16}


class Heads(tfds.core.GeneratorBasedBuilder):
  """Rendered heads of one size. Use `prepare` instead, which survives interruption."""

  VERSION = tfds.core.Version(VERSION)
  code_path = None  # used to find checksums of downloads; tfds 4.9 needs the undeclared importlib_resources to guess it

  def __init__(self, *, image_size: int, counts: Mapping[str, int], examples: Iterator[dict], **kwargs):
    """`examples` yields the stored examples of all splits, one split after the other in the order of `counts`."""
    self._image_size, self._counts, self._examples = image_size, dict(counts), examples
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    size = self._image_size
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="png")

    def tensor(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
      return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      license="Geometry: CC0 1.0 (MakeHuman, face units by Mika Suominen). Renderer and colours: Apache-2.0.",
      disable_shuffling=True,  # example i of the source is example i of the split
      features=tfds.features.FeaturesDict(
        {
          "image": image,
          "albedo": image,
          "depth": tensor((size, size), np.float32),
          "normals": tensor((size, size, 3), np.int16),
          "mask": tensor((size, size), np.bool_),
          "yaw": np.float32,
          "pitch": np.float32,
          "light": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
      ),
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager  # nothing is downloaded
    order = iter(self._counts)
    return {split: self._generate_examples(split, order) for split in self._counts}

  def _generate_examples(self, split: str, order: Iterator[str]) -> Iterator[tuple[int, dict]]:
    if next(order) != split:  # TFDS runs the generators one after the other, in order
      raise RuntimeError(f"the splits of heads are being written out of order, at {split}")
    yield from enumerate(itertools.islice(self._examples, self._counts[split]))


def prepare(
  image_size: int = 64,
  counts: Mapping[str, int] | None = None,
  *,
  cache_dir: str | os.PathLike | None = None,
  num_workers: int | None = None,
  progress: bool = True,
) -> Path:
  """The directory of the prepared set, which is rendered first if the cache does not have it.

  The set is written to a temporary directory and renamed when it is complete, so an interrupted preparation leaves
  nothing that looks like a set; its remains are removed by the next one. A second process waits for the first and uses
  its result.

  Args:
    counts: examples per split, of `train`, `validation`, `test`; default 4000, 256, 256.
    cache_dir: default `default_cache_dir()`.
    num_workers: rendering processes; default one per processor; 0 renders in this process.
  Raises:
    UserError: an impossible size or split, or a cache directory that cannot be written.
  """
  counts = dict(DEFAULT_COUNTS if counts is None else counts)
  if unknown := set(counts) - set(heads_model.SPLITS):
    raise UserError(f"heads: unknown split {sorted(unknown)[0]!r}; there are {', '.join(heads_model.SPLITS)}")
  if image_size < 8 or min(counts.values(), default=0) < 1:
    raise UserError(f"heads: image_size {image_size}, counts {counts}; give at least 8 pixels and 1 example per split")
  cache = Path(cache_dir or default_cache_dir()).expanduser()
  name = "_".join([f"{image_size}px", *(f"{split}{counts[split]}" for split in heads_model.SPLITS if split in counts)])
  final = cache / "heads" / name / VERSION
  if _is_complete(final):
    return final
  try:
    (cache / "heads" / name).mkdir(parents=True, exist_ok=True)
    with _lock(cache / "heads" / f".{name}.lock") as locked:
      if not _is_complete(final):
        _prepare_aside(
          final, locked=locked, image_size=image_size, counts=counts, num_workers=num_workers, progress=progress
        )
  except OSError as error:
    reason = error.strerror or error
    raise UserError(
      f"heads: cannot write to {cache} ({reason}); choose another with SHAPEGAN_CACHE or data.cache_dir"
    ) from error
  return final


def _is_complete(directory: Path) -> bool:
  return (directory / "dataset_info.json").exists()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
  """Holds an exclusive lock that the system releases with the process; yields whether locks are available."""
  with open(path, "w") as file:
    if fcntl:
      fcntl.flock(file, fcntl.LOCK_EX)
    yield fcntl is not None


def _prepare_aside(
  final: Path, *, locked: bool, image_size: int, counts: dict, num_workers: int | None, progress: bool
):
  prefix = f".preparing-{VERSION}-"
  if locked:  # no other process is preparing: leftovers are from interrupted ones
    for remains in final.parent.glob(prefix + "*"):
      shutil.rmtree(remains, ignore_errors=True)
  workers = heads_workers.default_num_workers() if num_workers is None else num_workers
  jobs = [(split, i) for split, count in counts.items() for i in range(count)]
  aside = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
  tfds.display_progress_bar(False)  # ours is more informative
  try:
    with (
      contextlib.closing(heads_workers.render_all(jobs, image_size, num_workers=workers)) as rendered,
      tqdm(desc=f"heads {image_size}px", total=len(jobs), unit="image", disable=not progress, mininterval=0.5) as bar,
      contextlib.redirect_stdout(io.StringIO()),  # tfds announces a download there
    ):
      examples = _counting(rendered, bar)
      builder = Heads(
        image_size=image_size, counts=counts, examples=examples, data_dir=aside, file_format="array_record"
      )
      builder.download_and_prepare()
    try:
      os.replace(builder.data_dir, final)
    except OSError:  # without locks another process may have finished first; its set equals ours
      if not _is_complete(final):
        raise
  finally:
    tfds.display_progress_bar(True)
    shutil.rmtree(aside, ignore_errors=True)


def _counting(examples: Iterator[dict], bar: tqdm) -> Iterator[dict]:
  for example in examples:
    bar.update()
    yield example


class HeadsSource:
  """Random access to one split of a prepared set. Picklable: workers of a loader open the files themselves."""

  def __init__(self, directory: str | os.PathLike, split: str):
    self.directory, self.split = Path(directory), split
    if not _is_complete(self.directory):
      raise UserError(f"{directory}: no prepared heads set here; make one with shapegan_jax.data.heads.prepare")
    self._builder = tfds.builder_from_directory(self.directory)
    if split not in self._builder.info.splits:
      raise UserError(f"heads: no split {split!r}; {directory} has {', '.join(self._builder.info.splits)}")
    # The PNGs are decoded here: tfds would use OpenCV, or warn that it is missing.
    keep_png = {"image": tfds.decode.SkipDecoding(), "albedo": tfds.decode.SkipDecoding()}
    self._records = self._builder.as_data_source(split, decoders=keep_png)

  def __reduce__(self):
    return HeadsSource, (self.directory, self.split)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Example `index` of the split.

    image and albedo uint8 [h, w, 3] (linear, /255 gives [0, 1]); depth float32 [h, w] along the optical axis, 0 outside
    the mask; normals float32 [h, w, 3] unit, world frame, 0 outside the mask; mask bool [h, w]; yaw, pitch float32
    (radians); light float32 [4] (l0, l1, lx, ly) in the object frame.
    """
    record = self._records[range(len(self))[index]]  # range: negative indices and IndexError as in a list
    normals = record["normals"].astype(np.float32)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return {
      "image": _decode_png(record["image"]),
      "albedo": _decode_png(record["albedo"]),
      "depth": record["depth"],
      "normals": normals / np.maximum(length, 1),
      "mask": record["mask"],
      "yaw": np.float32(record["yaw"]),
      "pitch": np.float32(record["pitch"]),
      "light": record["light"],
    }

  def lights(self) -> Float32[np.ndarray, "n 4"]:
    """The light codes of all examples, for a prior fitted to them."""
    return np.stack([self[i]["light"] for i in range(len(self))])

  def images(self) -> UInt8[np.ndarray, "n h w 3"]:
    """All images of the split in one array: for training, where they fit in memory and nothing else is needed."""
    as_stored = {name: tfds.decode.SkipDecoding() for name in self._builder.info.features}
    records = self._builder.as_data_source(self.split, decoders=as_stored)
    return np.stack([_decode_png(records[i]["image"]) for i in range(len(records))])


def _decode_png(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
  return np.asarray(Image.open(io.BytesIO(data)))
