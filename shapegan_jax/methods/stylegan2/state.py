"""What a run of StyleGAN2 carries from step to step."""

from __future__ import annotations

from shapegan_jax.methods.stylegan2.augmentation import AugmentState
from shapegan_jax.types import Array, PyTree, record


@record
class StyleState:
  """Everything a run carries from step to step."""

  step: Array  # [] int32, updates done
  gen_params: PyTree  # mapping, synthesis
  disc_params: PyTree
  gen_opt: PyTree
  disc_opt: PyTree
  ema_params: PyTree  # what is evaluated
  w_mean: Array  # [size] mean style
  noise: PyTree  # the noise of pictures that shall always be the same
  path_mean: Array  # [] running mean of the path lengths
  augment: AugmentState
