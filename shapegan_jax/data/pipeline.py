"""From a data source to batches. Data is a pure function of the step.

Example i of step n is number `examples_before(n) + i` of an endless sequence: epoch after epoch of the source, each in
an order that depends on (seed, epoch) alone; whether it is mirrored depends on its number alone. Batches are global,
and a process computes only its own rows. So nothing is saved or restored: a run resumed at any step, on any number of
processes, sees the same pictures. The loader (grain) only maps and prefetches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from shapegan_jax.data.images import resize as resize_antialiased
from shapegan_jax.data.images import resize_nearest, to_signed_unit
from shapegan_jax.data.packed import PackedSource
from shapegan_jax.data.sources import Resize, Source
from shapegan_jax.errors import UserError
from shapegan_jax.schedules import Stage, Stages, examples_before, stage_at, stages_between

CACHE_BYTES = 2 * 10**9  # resized pictures kept in memory; beyond it they are resized again each epoch
THREADS, PREFETCH = 2, 4  # of whole batches
RESIZES = get_args(Resize)

BatchSpec = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Name -> (shape, dtype)."""


def batch_spec(stage: Stage, *, uses_data: bool = True) -> BatchSpec:
  """What the global batches of a stage consist of; nothing for a method that reads no data.

  Further arrays of a batch (a mask, the pose of an image) must be declared here: the update is compiled for them.
  """
  if not uses_data:
    return {}
  return {"image": ((stage.batch_size, stage.resolution, stage.resolution, 3), np.dtype(np.float32))}


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> tuple[Int64[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
  """The order of an epoch, a permutation of 0 ... count-1, and a coin flip for each position.

  Sorted raw output of a counter-based generator: unlike `permutation`, numpy guarantees it for every version, so a run
  can be resumed years later.
  """
  words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(2 * count)
  order, coins = np.argsort(words[:count], kind="stable"), words[count:] >> np.uint64(63) == 1
  order.setflags(write=False)
  coins.setflags(write=False)
  return order, coins


def pick_examples(
  seed: int, first: int, number: int, count: int
) -> tuple[Int64[np.ndarray, "number"], Bool[np.ndarray, "number"]]:
  """Source index and coin flip of the examples `first` ... `first + number - 1` of the endless sequence."""
  epochs, places = np.divmod(np.arange(first, first + number), count)
  picked = [tuple(part[places[epochs == e]] for part in epoch_order(seed, int(e), count)) for e in np.unique(epochs)]
  return np.concatenate([order for order, _ in picked]), np.concatenate([coins for _, coins in picked])


class _Memo:
  """Rows computed on first use and cached. Two threads may compute a row twice, with the same result."""

  def __init__(self, read: Callable[[int], np.ndarray], count: int, shape: tuple[int, ...]):
    self._read = read
    self._rows = np.empty((count, *shape), np.uint8)
    self._ready = np.zeros(count, bool)

  def __call__(self, indices: np.ndarray) -> np.ndarray:
    for index in np.unique(indices[~self._ready[indices]]):
      self._rows[index] = self._read(int(index))
      self._ready[index] = True
    return self._rows[indices]


class _Pictures:
  """The source's pictures at one resolution, from memory if they fit."""

  def __init__(self, source: Source, held: np.ndarray | None, resolution: int, *, legacy: bool, cache_bytes: int):
    self._resolution, self._legacy = resolution, legacy

    def one(index: int) -> np.ndarray:
      return held[index] if held is not None else np.asarray(source[index]["image"])

    shape = one(0).shape
    # Nearest-neighbour resizing does not commute with mirroring and comes after it, so full pictures are cached.
    keeps = shape if legacy else (resolution, resolution, 3)
    read = one if legacy else lambda index: resize_antialiased(one(index), resolution)
    if held is not None and keeps == shape:
      self._read = lambda indices: held[indices]
    elif len(source) * int(np.prod(keeps)) <= cache_bytes:
      self._read = _Memo(read, len(source), keeps)
    else:
      self._read = lambda indices: np.stack([read(int(index)) for index in indices])

  def __call__(self, indices: Int64[np.ndarray, "b"], mirrored: Bool[np.ndarray, "b"]) -> UInt8[np.ndarray, "b h w 3"]:
    pictures = self._read(indices)
    pictures = np.where(mirrored[:, None, None, None], pictures[:, :, ::-1], pictures)
    return resize_nearest(pictures, self._resolution) if self._legacy else pictures


def batches(
  source: Source,
  stages: Stages[Stage],
  *,
  first_step: int,
  num_steps: int,
  seed: int,
  block: tuple[int, int] = (0, 1),
  flip: bool = True,
  resize: str = "antialias",
) -> Iterator[dict[str, Float32[np.ndarray, "b h w 3"]]]:
  """This process's rows of the batches of steps first_step ... first_step + num_steps - 1, prefetched by threads.

  Args:
    stages: (first step, stage) in order, the first at 0; `stage.batch_size` is global.
    block: (k, n): of a batch cut into n blocks of rows, the k-th is this process's.
    flip: mirror half of the examples, left to right.
    resize: "antialias" keeps the picture in place on the grid that rays are cast through (`images.resize`); "legacy" is
      the originals' nearest pixel (`images.resize_nearest`), applied after the mirror as theirs is.

  Yields:
    this process's rows of the arrays of `batch_spec(stage)`, C-contiguous; images are in [-1, 1].

  Raises:
    UserError: at once, not at the first batch: a batch that cannot be cut evenly, pictures smaller than a
      stage's resolution, an unknown resize.
  """
  if resize not in RESIZES:
    raise UserError(f"config.data.resize: {resize!r} is not one of {', '.join(RESIZES)}")
  starts = [start for start, _ in stages]
  if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
    raise UserError(f"Stages start at steps {starts}: the first must start at 0 and each later than the one before.")
  if len(source) == 0:
    raise UserError("The data set has no examples: nothing to train on.")
  if num_steps <= 0:
    return iter(())
  height, width = np.shape(source[0]["image"])[:2]
  ahead = stages_between(stages, first_step, first_step + num_steps)
  resolutions = {stage.resolution for stage in ahead}
  for stage in ahead:
    if stage.batch_size % block[1]:
      raise UserError(
        f"A batch of {stage.batch_size} cannot be shared by {block[1]} processes: make it a multiple of them."
      )
    if stage.resolution > min(height, width):
      raise UserError(
        f"A stage trains at {stage.resolution}x{stage.resolution}, but the pictures were prepared at {width}x{height}:"
        f" set data.image_size={stage.resolution} or more."
      )
  import grain  # here: it takes most of a second, and `--help` does not need it

  # A memory-mapped set takes no memory; others are decoded once, if they fit.
  fits = len(source) * height * width * 3 <= CACHE_BYTES
  held = source.images() if isinstance(source, PackedSource) or (fits and hasattr(source, "images")) else None
  budget, legacy = CACHE_BYTES // len(resolutions), resize == "legacy"
  pictures = {size: _Pictures(source, held, size, legacy=legacy, cache_bytes=budget) for size in resolutions}

  def read_step(step: int) -> dict[str, Float32[np.ndarray, "b h w 3"]]:
    stage = stage_at(stages, step)
    (size, resolution, *_), dtype = batch_spec(stage)["image"]
    rows = size // block[1]
    first = examples_before(stages, step) + block[0] * rows
    indices, coins = pick_examples(seed, first, rows, len(source))
    image = to_signed_unit(pictures[resolution](indices, coins & flip))
    return {"image": image.astype(dtype, copy=False)}

  options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCH)
  return iter(grain.MapDataset.range(first_step, first_step + num_steps).map(read_step).to_iter_dataset(options))
