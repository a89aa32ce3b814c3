"""GAN2Shape's networks from the authors' checkpoints, to compare ours with; their sizes are inferred from the tensors.

A released checkpoint is one dictionary of state dicts (netD, netA, netV, netL, netEnc: depth, albedo, view, light and
latent offset); those of the optimisers in it are ignored. Unsup3D's files have the first four, among others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shapegan_jax.convert import layouts
from shapegan_jax.convert.layouts import Shape, Slot
from shapegan_jax.convert.pickles import Unreadable
from shapegan_jax.convert.torch_files import naming, read_torch
from shapegan_jax.convert.torch_values import Tensor, tensors_of
from shapegan_jax.networks.depth_net import MapNet
from shapegan_jax.networks.image_encoders import OffsetEncoder, VectorEncoder

NAMES = {"netD": "depth", "netA": "albedo", "netV": "view", "netL": "light", "netEnc": "offset"}
_FEATURES = {"depth": 1, "albedo": 3, "view": 6, "light": 4}
_MOST_LEVELS = 10


@dataclasses.dataclass(frozen=True)
class Networks:
  """The networks of a file by our names (values of `NAMES`): modules, and their parameter trees without "params"."""

  modules: dict[str, Any]
  params: dict[str, Any]
  step: int = 0  # updates in the current step of the method; 0: not in the file

  @property
  def resolution(self) -> int:
    return next(iter(self.modules.values())).resolution


def read_networks(path: str | Path) -> Networks:
  """The networks in the file at `path`.

  Raises:
    UserError: the file cannot be read, contains none of them, or contains networks for different resolutions.
  """
  tree = read_torch(path)
  with naming(path):
    if not isinstance(tree, dict) or not any(name in tree for name in NAMES):
      raise Unreadable(f"has none of {', '.join(NAMES)}; is it a checkpoint of GAN2Shape?")
    modules, params = {}, {}
    for published, name in NAMES.items():
      if published in tree:
        try:
          modules[name], params[name] = network(name, tensors_of(tree[published]))
        except Unreadable as error:
          raise Unreadable(f"{published}: {error}") from error
    sizes = {name: module.resolution for name, module in modules.items()}
    if len(set(sizes.values())) > 1:
      raise Unreadable(f"its networks are for images of different sizes ({sizes}); are they from one training run?")
    step = tree.get("iteration")
    return Networks(modules, params, step if type(step) is int and 0 <= step < 2**31 else 0)


def network(name: str, tensors: Mapping[str, Tensor | np.ndarray]) -> tuple[Any, dict[str, Any]]:
  """(module, parameters) of one network from its state dict; `name` is a value of `NAMES`.

  The group size of the group norms is not in the file; it is 4, as published.

  Raises:
    Unreadable: a tensor is missing, left over, or of another shape.
  """
  tensors = layouts.without_prefix(tensors)
  kernels = [tensors[key].shape for key in sorted(tensors, key=_place) if len(tensors[key].shape) == 4]
  module, slots = {"offset": _offset, "view": _vector, "light": _vector}.get(name, _map)(kernels)
  params = layouts.fill(slots, tensors)
  if module.features != _FEATURES.get(name, module.features):
    raise Unreadable(f"returns {module.features} numbers where {_FEATURES[name]} are expected; is it another network?")
  return module, params


def _place(name: str) -> int:
  """The index of a tensor's layer in the published sequence."""
  return next((int(part) for part in name.split(".") if part.isdecimal()), -1)


def _levels(kernels: list[Shape], fixed: int, each: int) -> int:
  """The number of times that the image is halved, from the number of convolutions."""
  levels, rest = divmod(len(kernels) - fixed, each)
  if rest or not 1 <= levels <= _MOST_LEVELS or any(0 in shape for shape in kernels):
    raise Unreadable(f"has {len(kernels)} convolutions, like no network of this kind; is it another method or variant?")
  return levels


def _map(kernels: list[Shape]) -> tuple[MapNet, list[Slot]]:
  """`MapNet` and its slots. Layer numbers are those of the published sequence, which includes norms and activations."""
  levels = _levels(kernels, 4, 3)
  width, bottleneck, features = kernels[0][0], kernels[levels][0], kernels[-1][0]
  widths = [width * 2**i for i in range(levels)]
  slots: list[Slot] = []
  index = 0

  def layer(slot: Callable[..., list[Slot]], path: str, *shape: int, norm: str = "", **options: Any) -> None:
    """Adds a convolution, optionally a norm, and an activation."""
    nonlocal index, slots
    slots += slot(f"network.{index}", path, *shape, **options)
    if norm:
      slots += layouts.norm(f"network.{index + 1}", norm, shape[1])
    index += 3 if norm else 2

  plain = {"bias": False}
  for i, (a, b) in enumerate(zip([3, *widths], widths, strict=False)):
    layer(layouts.conv, f"down_{i}", a, b, 4, norm=f"down_norm_{i}" if i < levels - 1 else "", **plain)
  deepest = widths[-1]
  layer(layouts.conv, "bottleneck", deepest, bottleneck, 4, **plain)
  layer(layouts.transposed_conv, "up_0", bottleneck, deepest, 4)
  layer(layouts.conv, "conv_0", deepest, deepest, 3, **plain)
  for i, b in enumerate(widths[-2::-1], 1):
    layer(layouts.transposed_conv, f"up_{i}", 2 * b, b, 4, norm=f"up_norm_{i}")
    layer(layouts.conv, f"conv_{i}", b, b, 3, norm=f"conv_norm_{i}", **plain)
  index += 1  # upsampling of the last feature map
  layer(layouts.conv, "head_0", width, width, 3, norm="head_norm_0", **plain)
  layer(layouts.conv, "head_1", width, width, 5, norm="head_norm_1", **plain)
  layer(layouts.conv, "head_2", width, features, 5, **plain)
  return MapNet(4 * 2**levels, width, bottleneck, features), slots


def _vector(kernels: list[Shape]) -> tuple[VectorEncoder, list[Slot]]:
  levels = _levels(kernels, 2, 1)
  width, features = kernels[0][0], kernels[-1][0]
  deepest = width * 2 ** (levels - 1)
  sizes = [(f"down_{i}", 3 if i == 0 else width * 2 ** (i - 1), width * 2**i, 4) for i in range(levels)]
  sizes += [("hidden", deepest, deepest, 4), ("head", deepest, features, 1)]
  slots = [
    s for i, (path, *shape) in enumerate(sizes) for s in layouts.conv(f"network.{2 * i}", path, *shape, bias=False)
  ]
  return VectorEncoder(features, 4 * 2**levels, width), slots


def _offset(kernels: list[Shape]) -> tuple[OffsetEncoder, list[Slot]]:
  levels = _levels(kernels, 0, 3)
  width, features = kernels[0][0], kernels[-1][0]
  slots = layouts.conv("network.0", "entrance", 3, width, 4, bias=False)
  for i in range(levels - 1):
    a, b, block, path = width * 2**i, width * 2 ** (i + 1), f"network.{i + 1}", f"blocks_{i}"
    slots += layouts.conv(f"{block}.conv1", f"{path}/conv_0", a, b, 3, bias=False)
    slots += layouts.conv(f"{block}.conv2", f"{path}/conv_1", b, b, 3, bias=False)
    slots += layouts.conv(f"{block}.conv_sc", f"{path}/skip", a, b, 1)
  deepest = width * 2 ** (levels - 1)
  slots += layouts.conv(f"network.{levels + 1}", "hidden", deepest, 2 * deepest, 4, bias=False)
  slots += layouts.conv(f"network.{levels + 3}", "head", 2 * deepest, features, 1, bias=False)
  return OffsetEncoder(features, 4 * 2**levels, width), slots
