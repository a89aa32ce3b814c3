"""A picture of the roles of GRAF's two codes."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from shapegan_jax.errors import UserError
from shapegan_jax.methods.volume_gan.graf import Graf
from shapegan_jax.model import Model
from shapegan_jax.reporting.previews import labelled_grid
from shapegan_jax.types import Key


def disentanglement_grid(
  model: Model, *, count: int = 5, resolution: int | None = None, key: Key | None = None
) -> UInt8[np.ndarray, "height width 3"]:
  """A picture of the roles of the two codes: columns share a shape, rows an appearance, all in the central pose.

  Args:
    model: a trained GRAF (`shapegan_jax.load`).
    count: latents, sampled with `key` (None: always the same); the diagonal shows them unmixed.
    resolution: height and width of each picture in pixels; None: those of the last training stage.

  Raises:
    UserError: the model's method has no separate codes.
  """
  if not isinstance(model.method, Graf):
    raise UserError("disentanglement_grid: this model has one code for shape and appearance; only GRAF separates them")
  crossed, cameras = model.method.crossed_latents(model.sample_latents(count, key)), model.central_cameras(count)
  rows = {f"look {i + 1}": model.render(crossed[i], cameras, resolution=resolution).rgb for i in range(count)}
  return labelled_grid({label: np.asarray(row, np.float64) for label, row in rows.items()})
