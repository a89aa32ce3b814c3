"""Named random streams: a key is a function of the run's key, the stream's name and the step, and of nothing else.

Nothing random is stored in a checkpoint, so a resumed run draws what the uninterrupted one would have drawn, and a new
stream changes no other. Works on traced steps, inside and outside `jit` alike.
"""

from __future__ import annotations

import zlib

import jax
import numpy as np
from jaxtyping import Int

from shapegan_jax.types import Array, Key


def root_key(seed: int) -> Key:
  """The run's key."""
  return jax.random.key(seed)


def stream(key: Key, name: str, step: int | Int[Array, ""] = 0) -> Key:
  """fold_in(fold_in(key, crc32(name)), step): the key of stream `name` at `step`."""
  return jax.random.fold_in(jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode()))), step)
