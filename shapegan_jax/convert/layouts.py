"""Named torch tensors -> nested parameters, with every name and shape checked.

torch stores the weight of a linear layer as [out, in], of a convolution as [out, in, height, width] and of a transposed
convolution as [in, out, height, width], applied as the gradient of a convolution. Ours are [in, out] and [height,
width, in, out], with the kernels of transposed convolutions rotated by 180 degrees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from shapegan_jax.convert.pickles import Unreadable, printable
from shapegan_jax.convert.torch_values import Tensor

T = TypeVar("T")
Shape = tuple[int, ...]
Kind = Literal["vector", "linear", "conv", "transposed"]


@dataclasses.dataclass(frozen=True)
class Slot:
  """One expected tensor: its name and shape in torch, its path in our tree (`a/b/c`) and how it is converted."""

  name: str
  shape: Shape
  path: str
  kind: Kind


def linear(name: str, path: str, inputs: int, outputs: int) -> list[Slot]:
  """Slots for the weight and bias of a linear layer."""
  return [
    Slot(f"{name}.weight", (outputs, inputs), f"{path}/kernel", "linear"),
    Slot(f"{name}.bias", (outputs,), f"{path}/bias", "vector"),
  ]


def conv(name: str, path: str, inputs: int, outputs: int, size: int, *, bias: bool = True) -> list[Slot]:
  """Slots for the weight and, with `bias`, the bias of a convolution."""
  weight = Slot(f"{name}.weight", (outputs, inputs, size, size), f"{path}/kernel", "conv")
  return [weight, Slot(f"{name}.bias", (outputs,), f"{path}/bias", "vector")] if bias else [weight]


def transposed_conv(name: str, path: str, inputs: int, outputs: int, size: int) -> list[Slot]:
  """The slot for the weight of a transposed convolution without bias."""
  return [Slot(f"{name}.weight", (inputs, outputs, size, size), f"{path}/kernel", "transposed")]


def norm(name: str, path: str, channels: int) -> list[Slot]:
  """Slots for the scale and bias of a normalisation layer."""
  return [
    Slot(f"{name}.weight", (channels,), f"{path}/scale", "vector"),
    Slot(f"{name}.bias", (channels,), f"{path}/bias", "vector"),
  ]


def without_prefix(tensors: Mapping[str, T], prefix: str = "module.") -> dict[str, T]:
  """Removes `prefix`, which training on several GPUs (DataParallel) adds, if all names have it."""
  if tensors and all(name.startswith(prefix) for name in tensors):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
  return dict(tensors)


def fill(slots: Sequence[Slot], tensors: Mapping[str, Tensor | np.ndarray]) -> dict[str, Any]:
  """Nested float32 parameters; every slot must be filled and every tensor used.

  Raises:
    Unreadable: a tensor is missing, unexpected, of another shape, not floating-point, or not finite.
  """
  expected = {slot.name for slot in slots}
  for slot in slots:
    if slot.name not in tensors:
      raise Unreadable(f"lacks the tensor {slot.name} of shape {slot.shape}; is it of another method, or damaged?")
  for name in tensors:
    if name not in expected:
      raise Unreadable(f"has a tensor {printable(name)} that is not expected; is it of another method or variant?")
  for slot in slots:
    if tensors[slot.name].shape != slot.shape:
      found = printable(str(tensors[slot.name].shape))
      raise Unreadable(f"{slot.name} has shape {found} where {slot.shape} is expected; is it of another method?")
  params: dict[str, Any] = {}
  for slot in slots:
    *parents, leaf = slot.path.split("/")
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = _converted(slot, tensors[slot.name])
  return params


def _converted(slot: Slot, tensor: Tensor | np.ndarray) -> np.ndarray:
  values = tensor.array() if isinstance(tensor, Tensor) else tensor
  if values.dtype.kind != "f":
    raise Unreadable(f"{slot.name} has values of type {values.dtype} where floats are expected")
  with np.errstate(over="ignore"):
    values = values.astype(np.float32)
  if not np.isfinite(values).all():
    raise Unreadable(f"{slot.name} has values that are not finite; the training failed, or the file is damaged")
  if slot.kind == "linear":
    values = values.T
  elif slot.kind == "conv":
    values = values.transpose(2, 3, 1, 0)
  elif slot.kind == "transposed":
    values = values.transpose(2, 3, 0, 1)[::-1, ::-1]
  return np.asarray(values, order="C")
