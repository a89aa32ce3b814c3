"""Generators of pi-GAN, GOF and ShadeGAN: one FiLM-SIREN with sizes inferred from the file.

pi-GAN released whole pickled modules, GOF and ShadeGAN state dicts, and all three averages of the weights: lists
without names, in the order of the generator's parameters. GOF's generators have the same tensors as pi-GAN's (the
density is interpreted as an occupancy), so that the file does not determine the method: the caller specifies it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from shapegan_jax.convert import layouts
from shapegan_jax.convert.layouts import Shape, Slot
from shapegan_jax.convert.pickles import Record, Unreadable, printable
from shapegan_jax.convert.torch_files import naming, read_torch
from shapegan_jax.convert.torch_values import Tensor, tensors_of

Method = Literal["pigan", "gof", "shadegan"]

_MAPPING = "siren.mapping_network.network"
_OTHERS = {
  "pts_linears": "a GRAF generator; use --method=graf",
  "fromRGB": "a discriminator; give the generator, or its average",
  "spatial_embeddings": "the variant with a grid of features, which no published model uses and which is not read",
}
"""Parts of tensor names that identify other networks."""

_CONDITIONS = {3: (True, False), 4: (False, True), 7: (True, True)}
"""Inputs of the colour layer beside the features -> (view, light) conditioning; a direction has 3 values, a light 4."""


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a generator, inferred from a file's tensors. `surface_*` are 0 without ShadeGAN's surface network."""

  width: int
  depth: int
  latent_dim: int
  hidden_dim: int
  n_hidden: int
  color_inputs: int
  surface_width: int = 0
  surface_blocks: int = 0

  @property
  def view_condition(self) -> bool:
    return _CONDITIONS[self.color_inputs - self.width][0]

  @property
  def light_condition(self) -> bool:
    return _CONDITIONS[self.color_inputs - self.width][1]

  @property
  def code_size(self) -> int:
    """The number of frequencies and phases together."""
    return 2 * (self.depth + 1) * self.width

  @property
  def surface_resolution(self) -> int:
    return 8 * 2**self.surface_blocks


@dataclasses.dataclass(frozen=True)
class Generator:
  """A converted generator: parameters {"mapping", "field"[, "surface"]} and other information from the file.

  `step` is the number of updates (0: not in the file); `warp_scale` the factor by which points are multiplied (None:
  not in the file, only in whole modules); `notes` are messages for the user.
  """

  params: dict[str, Any]
  sizes: Sizes
  step: int = 0
  warp_scale: float | None = None
  notes: tuple[str, ...] = ()


def read_generator(path: str | Path, *, method: Method, ema: str | Path | None = None) -> Generator:
  """The generator in the file at `path`, with the averaged weights in the file at `ema`, if given.

  `path` may be an average itself: its tensors are then identified by their order.

  Raises:
    UserError: a file cannot be read, contains something else, or is of another method.
  """
  tree = read_torch(path)
  with naming(path):
    _refuse_others(tree)
    notes: tuple[str, ...] = ()
    shadow = _shadow(tree)
    if shadow is None:
      tensors = layouts.without_prefix(tensors_of(tree))
      _refuse_named(tensors)
      step = _count(tree, "step")
    else:
      shadow, notes = _without_extra(shadow, method)
      tensors = _names_in_order(shadow)
      step = _count(tree, "num_updates")
    sizes = sizes_of({name: tensor.shape for name, tensor in tensors.items()})
    _check_method(sizes, method)
    slots = generator_slots(sizes)
    params = layouts.fill(slots, tensors)
    warp_scale = _warp_scale(tree)
  if ema is not None:
    tree = read_torch(ema)
    with naming(ema):
      shadow = _shadow(tree)
      if shadow is None:
        raise Unreadable("holds no average; --ema takes the pickled ExponentialMovingAverage next to a model")
      shadow, notes = _without_extra(shadow, method)
      if len(shadow) != len(slots):
        raise Unreadable(f"averages {len(shadow)} tensors where --input has {len(slots)}; are they of the same model?")
      params = layouts.fill(slots, {slot.name: tensor for slot, tensor in zip(slots, shadow, strict=True)})
      step = step or _count(tree, "num_updates")
  return Generator(params, sizes, step, warp_scale, notes)


def generator_slots(sizes: Sizes) -> list[Slot]:
  """The slots of all tensors of a generator, in the order of torch's parameters."""
  width = sizes.width
  slots: list[Slot] = []
  for i in range(sizes.depth):
    slots += layouts.linear(f"siren.network.{i}.layer", f"field/trunk_{i}", width if i else 3, width)
  slots += layouts.linear("siren.final_layer", "field/density_head", width, 1)
  slots += layouts.linear("siren.color_layer_sine.layer", "field/color_film", sizes.color_inputs, width)
  slots += layouts.linear("siren.color_layer_linear.0", "field/color_head", width, 3)
  inputs = sizes.latent_dim
  for i in range(sizes.n_hidden):
    slots += layouts.linear(f"{_MAPPING}.{2 * i}", f"mapping/hidden_{i}", inputs, sizes.hidden_dim)
    inputs = sizes.hidden_dim
  slots += layouts.linear(f"{_MAPPING}.{2 * sizes.n_hidden}", "mapping/codes", inputs, sizes.code_size)
  if sizes.surface_width:
    slots += surface_slots(sizes.code_size, sizes.surface_width, sizes.surface_blocks)
  return slots


def surface_slots(
  code_size: int, width: int, blocks: int, *, prefix: str = "surfacenet.", path: str = "surface/"
) -> list[Slot]:
  """The slots of ShadeGAN's surface network, in the order of torch's parameters."""
  layer, w = f"{prefix}network", width
  slots = layouts.linear(f"{prefix}linear", f"{path}linear", code_size, w)
  slots += layouts.conv(f"{layer}.0", f"{path}conv_0", w + 2, w, 1, bias=False)
  slots += layouts.transposed_conv(f"{layer}.2", f"{path}up_0", w, w, 4)
  slots += layouts.conv(f"{layer}.4", f"{path}conv_1", w, w, 3, bias=False)
  slots += layouts.transposed_conv(f"{layer}.6", f"{path}up_1", w, w, 4)
  slots += layouts.norm(f"{layer}.7", f"{path}norm_0", w)
  slots += layouts.conv(f"{layer}.9", f"{path}conv_2", w, w, 3, bias=False)
  for i in range(blocks):
    block, home, half = f"{layer}.{10 + i}", f"{path}block_{i}", w // 2
    slots += layouts.norm(f"{block}.gn1", f"{home}/norm_0", w)
    slots += layouts.conv(f"{block}.conv1", f"{home}/conv_0", w, half, 3, bias=False)
    slots += layouts.norm(f"{block}.gn2", f"{home}/norm_1", half)
    slots += layouts.conv(f"{block}.conv2", f"{home}/conv_1", half, half, 3, bias=False)
    slots += layouts.conv(f"{block}.conv_sc", f"{home}/skip", w, half, 1)
    w = half
  slots += layouts.norm(f"{layer}.{10 + blocks}", f"{path}norm_1", w)
  return slots + layouts.conv(f"{layer}.{12 + blocks}", f"{path}conv_3", w, 2, 5, bias=False)


def sizes_of(shapes: Mapping[str, Shape]) -> Sizes:
  """The sizes of a generator from the shapes of its tensors.

  Raises:
    Unreadable: a tensor that determines a size is missing or impossible; `layouts.fill` checks the others.
  """

  def size(name: str, axis: int, axes: int = 2) -> int:
    shape = shapes.get(name)
    if shape is None:
      raise Unreadable(f"lacks the tensor {name}: not a generator of this method, or damaged")
    if len(shape) != axes or not shape[axis]:
      raise Unreadable(f"{name} has shape {printable(str(shape))}: not a generator of this method, or damaged")
    return shape[axis]

  def run(first: int, step: int, name: str) -> int:
    return next(n for n in itertools.count() if name.format(first + step * n) not in shapes)

  width, layers = size("siren.network.0.layer.weight", 0), run(0, 2, _MAPPING + ".{}.weight")
  surface_width = surface_blocks = 0
  if any(name.startswith("surfacenet.") for name in shapes):
    surface_width = size("surfacenet.linear.weight", 0)
    surface_blocks = run(10, 1, "surfacenet.network.{}.conv1.weight")
    if surface_width % (8 * 2**surface_blocks) or surface_blocks < 1:
      raise Unreadable(f"ShadeGAN has no surface network of width {surface_width} with {surface_blocks} blocks")
  return Sizes(
    width=width,
    depth=run(0, 1, "siren.network.{}.layer.weight"),
    latent_dim=size(f"{_MAPPING}.0.weight", 1),
    hidden_dim=size(f"{_MAPPING}.0.weight", 0),
    n_hidden=layers - 1,
    color_inputs=size("siren.color_layer_sine.layer.weight", 1),
    surface_width=surface_width,
    surface_blocks=surface_blocks,
  )


def _names_in_order(shadow: Sequence[Tensor]) -> dict[str, Tensor]:
  """Names of tensors listed in the order of torch's parameters; the sizes follow from characteristic shapes."""
  shapes = [tensor.shape for tensor in shadow]
  try:
    width = shapes[0][0]
    depth = next(i for i in range(len(shapes)) if shapes[2 * i] == (1, width))
    first = 2 * depth + 6
    layers = next(i for i in itertools.count() if shapes[first + 2 * i][0] == 2 * (depth + 1) * width) + 1
    rest = len(shapes) - first - 2 * layers
    blocks, odd = divmod(rest - 12, 8)
    if rest and (odd or blocks < 1):
      raise IndexError
  except (IndexError, StopIteration):
    raise Unreadable(f"its {len(shapes)} averaged tensors are not those of a generator of this method") from None
  sizes = Sizes(width, depth, 1, 1, layers - 1, 1, 1 if rest else 0, blocks)
  return {slot.name: tensor for slot, tensor in zip(generator_slots(sizes), shadow, strict=True)}


def _shadow(tree: Any) -> list[Tensor] | None:
  """The list of a pickled `torch_ema.ExponentialMovingAverage` or of its state dict; None if the tree is neither."""
  attributes = tree.state if isinstance(tree, Record) else tree
  if not isinstance(attributes, dict) or "shadow_params" not in attributes:
    return None
  shadow = attributes["shadow_params"]
  if not isinstance(shadow, list) or not all(isinstance(tensor, Tensor) for tensor in shadow):
    raise Unreadable("damaged: its average is not a list of tensors")
  return shadow


def _without_extra(shadow: list[Tensor], method: Method) -> tuple[list[Tensor], tuple[str, ...]]:
  """Removes a first tensor that is not a weight of the generator, as in early ShadeGAN averages: (tensors, notes)."""
  shapes = [tensor.shape for tensor in shadow[:2]]
  first = [len(shape) == 2 and shape[1] == 3 for shape in shapes]
  if method == "shadegan" and first == [False, True]:
    return shadow[1:], (f"the first averaged tensor, of shape {shapes[0]}, was left out, as in the authors' code",)
  return shadow, ()


def _count(tree: Any, name: str) -> int:
  """A number of steps from the attributes of a module or an average; 0 if there is none."""
  attributes = tree.state if isinstance(tree, Record) else tree
  value = attributes.get(name) if isinstance(attributes, dict) else None
  return value if type(value) is int and 0 <= value < 2**31 else 0


def _warp_scale(tree: Any) -> float | None:
  """The factor by which a whole module multiplies points, 1 without a box warp; None for other files."""
  if not isinstance(tree, Record) or not isinstance(tree.state, dict) or "_modules" not in tree.state:
    return None
  siren = tree.state["_modules"]["siren"]
  warp = siren.state["_modules"].get("gridwarper")
  scale = 1.0 if warp is None else warp.state["scale_factor"]
  if type(scale) is not float or not (math.isfinite(scale) and scale > 0):
    raise Unreadable("damaged: the factor of its box warp is not a positive number")
  return scale


def _refuse_others(tree: Any) -> None:
  if isinstance(tree, dict):
    if "generator" in tree or "generator_test" in tree:
      raise Unreadable("a GRAF checkpoint; use --method=graf")
    if "g_ema" in tree:
      raise Unreadable("a StyleGAN2 checkpoint, not a generator of this method")


def _refuse_named(tensors: Mapping[str, Tensor]) -> None:
  for part, reason in _OTHERS.items():
    if any(part in name for name in tensors):
      raise Unreadable(reason)


def _check_method(sizes: Sizes, method: Method) -> None:
  extra = sizes.color_inputs - sizes.width
  if extra not in _CONDITIONS:
    raise Unreadable(f"its colour layer has {extra} inputs beside the features; expected 3, 4 or 7")
  if method != "shadegan" and (sizes.light_condition or sizes.surface_width):
    raise Unreadable(f"its colour depends on the light, unlike {method} models; use --method=shadegan")
  if method == "shadegan" and not sizes.light_condition:
    raise Unreadable("its colour does not depend on the light: a pi-GAN or GOF model; use --method=pigan or gof")
