"""The InceptionV3 weights of the Frechet Inception distance, from `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid:
TensorFlow's network with PyTorch's names) or from an .npz with the same names.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shapegan_jax.convert import layouts
from shapegan_jax.convert.layouts import Slot
from shapegan_jax.convert.pickles import Unreadable
from shapegan_jax.convert.torch_files import naming, read_torch
from shapegan_jax.convert.torch_values import Tensor, tensors_of
from shapegan_jax.errors import UserError
from shapegan_jax.networks.features.inception import CLASSES, FEATURES, convolution_shapes

_EPSILON = 1e-3  # of the batch norms: TensorFlow's, not PyTorch's default
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def read_inception(path: str | Path) -> dict[str, Any]:
  """Parameters for `networks.features.inception` from an .npz, or otherwise a file written by torch.save.

  Raises:
    UserError: the file cannot be read, or does not contain this network.
  """
  path = Path(path)
  if path.suffix != ".npz":
    tree = read_torch(path)
    with naming(path):
      return inception_params(tensors_of(tree))
  try:
    with np.load(path, allow_pickle=False) as file:
      tensors = dict(file)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"{path}: cannot be read as .npz ({reason}); check the path, or save it again") from error
  with naming(path):
    return inception_params(tensors)


def inception_params(tensors: Mapping[str, Tensor | np.ndarray]) -> dict[str, Any]:
  """{name: {"kernel", "bias"}} with each batch norm folded into its convolution.

  Raises:
    Unreadable: a tensor is missing, unexpected, or of another shape.
  """
  # Step counters of the batch norms, which some versions of the file contain.
  tensors = {name: x for name, x in tensors.items() if not name.endswith(".num_batches_tracked")}
  if any(name.startswith("AuxLogits.") for name in tensors):
    raise Unreadable("torchvision's InceptionV3, not the one of the FID; give pt_inception-2015-12-05-6726825d.pth")
  found = layouts.fill(inception_slots(), tensors)
  params = {"fc": found.pop("fc")}
  for name, layer in found.items():
    scale = layer["weight"] / np.sqrt(layer["running_var"] + _EPSILON)
    params[name] = {"kernel": layer["kernel"] * scale, "bias": layer["bias"] - layer["running_mean"] * scale}
  return params


def inception_slots() -> list[Slot]:
  """The slots of all tensors in the file."""
  slots: list[Slot] = []
  for name, (height, width, inputs, outputs) in convolution_shapes().items():
    slots.append(Slot(f"{name}.conv.weight", (outputs, inputs, height, width), f"{name}/kernel", "conv"))
    slots += [Slot(f"{name}.bn.{kind}", (outputs,), f"{name}/{kind}", "vector") for kind in _STATISTICS]
  return slots + layouts.linear("fc", "fc", FEATURES, CLASSES)
