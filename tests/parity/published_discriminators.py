"""Readers of published discriminators' state dicts, by which the package's networks are compared with the originals.

Heads and layers that the authors' code contains but never uses are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shapegan_jax.convert import layouts
from shapegan_jax.convert.layouts import Slot
from shapegan_jax.convert.pickles import Unreadable
from shapegan_jax.convert.torch_values import Tensor

Tensors = Mapping[str, Tensor | np.ndarray]

_UNUSED = ("freq_phase_layer.", "encode_layer.", "pose_layer.")
_NOT_ONE = "is it a discriminator of this kind?"


def progressive_discriminator(tensors: Tensors) -> dict[str, Any]:
  """Parameters of `networks.discriminators.ProgressiveDiscriminator` (GOF, ShadeGAN on faces, pi-GAN on CARLA).

  Raises:
    Unreadable: a tensor is missing, left over, or of another shape.
  """
  tensors = layouts.without_prefix(tensors)
  tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
  count = sum(name.startswith("fromRGB.") and name.endswith(".weight") for name in tensors) - 1
  channels = [_shape(tensors, f"fromRGB.{i}.model.0.weight")[0] for i in range(count + 1)]
  slots: list[Slot] = []
  for i, n in enumerate(channels):
    size = 2 ** (count + 1 - i)
    slots += layouts.conv(f"fromRGB.{i}.model.0", f"entrances_{size}", 3, n, 1)
    if i < count:
      m, layer, block = channels[i + 1], f"layers.{i}", f"blocks_{size}"
      slots += layouts.conv(f"{layer}.network.0.conv", f"{block}/conv_0", n + 2, m, 3)
      slots += layouts.conv(f"{layer}.network.2.conv", f"{block}/conv_1", m + 2, m, 3)
      if n != m:
        slots += layouts.conv(f"{layer}.proj", f"{block}/skip", n, m, 1)
  slots += layouts.conv("final_layer", "heads", channels[-1], _shape(tensors, "final_layer.weight")[0], 2)
  return layouts.fill(slots, tensors)


def patch_discriminator(tensors: Tensors) -> dict[str, Any]:
  """Variables {"params", "spectral"} of `networks.patch_discriminator.PatchDiscriminator` (GRAF).

  Raises:
    Unreadable: a tensor is missing, left over, or of another shape.
  """
  tensors = layouts.without_prefix(tensors)
  names = [name.removesuffix(".weight_orig") for name in tensors if name.endswith(".weight_orig")]
  slots: list[Slot] = []
  for i, name in enumerate(sorted(names, key=_index)):
    outputs, inputs, size, _ = _shape(tensors, f"{name}.weight_orig")
    spectral = f"spectral/layers_{i}"
    slots += [
      Slot(f"{name}.weight_orig", (outputs, inputs, size, size), f"params/layers_{i}/kernel", "conv"),
      Slot(f"{name}.weight_u", (outputs,), f"{spectral}/u", "vector"),
      Slot(f"{name}.weight_v", (inputs * size * size,), f"{spectral}/v", "vector"),
    ]
  if not slots:
    raise Unreadable(f"has no layer with spectral normalisation; {_NOT_ONE}")
  variables = layouts.fill(slots, tensors)
  for name, layer in variables["spectral"].items():
    height, width, inputs, _ = variables["params"][name]["kernel"].shape
    layer["v"] = np.ascontiguousarray(layer["v"].reshape(inputs, height, width).transpose(1, 2, 0))
  return variables


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
  if name not in tensors or len(tensors[name].shape) != 4:
    raise Unreadable(f"lacks the convolution {name}; {_NOT_ONE}")
  return tensors[name].shape


def _index(name: str) -> int:
  digits = name.rpartition(".")[2]
  if not digits.isdecimal():
    raise Unreadable(f"has layers without a number; {_NOT_ONE}")
  return int(digits)
