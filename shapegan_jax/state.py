"""What every method's state needs: counting, averaging and checking pytrees of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from shapegan_jax.types import Array, PyTree


def parameter_count(params: PyTree) -> int:
  """Numbers in the tree; arrays or `jax.ShapeDtypeStruct`s."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def parameter_table(params: Mapping[str, PyTree]) -> str:
  """Name, shape and size of every array, for people."""
  return parameter_overview.get_parameter_overview(params, include_stats=False)


def ema_update(ema: PyTree, params: PyTree, decay: float | Array, step: Array) -> PyTree:
  """ema + (1 - d)(params - ema) with d = min(decay, (1 + n) / (10 + n)), n = `step` the number of updates done.

  The warm-up forgets the initialisation: an average with decay .9999 would carry it for ten thousand steps.
  """
  n = jnp.asarray(step, jnp.float32)
  d = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
  return jax.tree.map(lambda average, value: average + (1.0 - d) * (value - average), ema, params)


def all_finite(tree: PyTree) -> Array:
  """[] bool: no floating-point leaf holds a NaN or an infinity. Safe inside `jit`."""
  checks = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
  return jnp.all(jnp.stack(checks)) if checks else jnp.asarray(True)


def nonfinite_names(tree: PyTree) -> list[str]:
  """Paths of the leaves that hold a NaN or an infinity, on the host: for the message, once `all_finite` said no."""
  found = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    values = np.asarray(leaf)
    if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
      found.append(jax.tree_util.keystr(path, simple=True, separator="/"))
  return found
