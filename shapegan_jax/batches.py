"""Rows of a record in batches that are all equally long, so that one compiled program serves them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import jax
import numpy as np

T = TypeVar("T")


def padded_batches(tree: T, size: int) -> Iterator[tuple[T, int]]:
  """(`size` rows of the leaves [n, ...], how many of them are new), until all n were.

  The last batch is filled up by repeating the last row; its results are cut back to the new ones by whoever asked.
  """
  n = jax.tree.leaves(tree)[0].shape[0]
  for start in range(0, n, size):
    rows = np.minimum(np.arange(start, start + size), n - 1)
    yield jax.tree.map(lambda leaf: leaf[rows], tree), min(size, n - start)  # noqa: B023 (used at once)
