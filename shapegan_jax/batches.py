"""Rows of a record in batches of equal length, so that one compiled program serves them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import jax
import numpy as np

T = TypeVar("T")


def padded_batches(tree: T, size: int) -> Iterator[tuple[T, int]]:
  """Batches (`size` rows of the leaves [n, ...], how many of these rows are new) that cover all n rows.

  The last batch is padded by repeating the last row; the caller drops the results of the padding.
  """
  n = jax.tree.leaves(tree)[0].shape[0]
  for start in range(0, n, size):
    rows = np.minimum(np.arange(start, start + size), n - 1)
    yield jax.tree.map(lambda leaf: leaf[rows], tree), min(size, n - start)  # noqa: B023 (used at once)
