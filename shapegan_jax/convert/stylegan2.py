"""Published StyleGAN2: three layouts of the same networks, with sizes inferred from the tensors.

`.pt` of the public PyTorch code ("rosinality", used by GAN2Shape's authors), `.pkl` of NVIDIA's PyTorch code, and
`.pkl` of NVIDIA's TensorFlow code. All store unscaled weights with equalised learning rates, as this package does.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shapegan_jax.convert import layouts
from shapegan_jax.convert.layouts import Slot
from shapegan_jax.convert.nvidia_files import attribute, network_arrays, read_nvidia
from shapegan_jax.convert.pickles import Unreadable, printable
from shapegan_jax.convert.stylegan2_names import ADA, ROSINALITY, TENSORFLOW, Entry, Names, Sizes
from shapegan_jax.convert.torch_files import naming, read_torch
from shapegan_jax.convert.torch_values import Tensor, tensors_of

Tensors = Mapping[str, Tensor | np.ndarray]
_TORCH_STREAM = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a file in torch's old format."""
_MEAN_SAMPLES = 4096


@dataclasses.dataclass(frozen=True)
class Gan:
  """A converted GAN: what `methods.stylegan2.method` exports, and the sections of a config that the file tells."""

  params: dict[str, Any]
  config: dict[str, Any]
  notes: tuple[str, ...] = ()


def read_gan(path: str | Path) -> Gan:
  """The generator (averaged, if there is an average) and the discriminator (if there is one) in the file at `path`.

  Raises:
    UserError: the file cannot be read, or contains something else.
  """
  path = Path(path)
  if _is_nvidia(path):
    tree = read_nvidia(path)
    with naming(path):
      return _from_nvidia(tree)
  tree = read_torch(path)
  with naming(path):
    return _from_rosinality(tree)


def _is_nvidia(path: Path) -> bool:
  """Whether the file is a pickle, but not one in torch's old format."""
  with naming(path):
    if not path.is_file():
      return False  # `read_torch` reports it
    with path.open("rb") as file:
      start = file.read(len(_TORCH_STREAM))
    return start[:1] == _TORCH_STREAM[:1] and start != _TORCH_STREAM


def _from_rosinality(tree: Any) -> Gan:
  parts = tree if isinstance(tree, dict) else {}
  notes, discriminator = [], None
  if "g_ema" not in parts and "g" in parts:
    notes.append("the file holds no average; the raw training weights are used")
  weights = parts.get("g_ema", parts.get("g", tree))
  mean = parts.get("latent_avg")
  if "d" in parts:
    discriminator = _discriminator(ROSINALITY, layouts.without_prefix(tensors_of(parts["d"])))
  tensors = layouts.without_prefix(tensors_of(weights))
  return _gan(ROSINALITY, tensors, mean, discriminator, notes)


def _from_nvidia(tree: Any) -> Gan:
  if isinstance(tree, dict):  # PyTorch
    if "G_ema" not in tree:
      raise Unreadable("holds no G_ema; is it a network of StyleGAN2?")
    generator, discriminator, names = tree["G_ema"], tree.get("D"), ADA
  elif type(tree) is tuple and len(tree) == 3:  # TensorFlow: G, D, the average of G
    (_, discriminator, generator), names = tree, TENSORFLOW
  else:
    raise Unreadable("neither a dictionary nor three networks; is it a file of StyleGAN2?")
  tensors = network_arrays(generator)
  if any(name.startswith(("mapping.embed", "mapping/LabelConcat")) for name in tensors):
    raise Unreadable("a class-conditional generator, which is not supported; choose one without labels")
  found = discriminator and _discriminator(
    names,
    network_arrays(discriminator),
    group=_number(attribute(discriminator, "b4.mbstd", "group_size")) or 4,
    clamp=_number(attribute(discriminator, "b4.conv", "conv_clamp")),
  )
  clamp = _number(attribute(generator, "synthesis.b4.conv1", "conv_clamp"))
  return _gan(names, tensors, tensors.get(names.mean), found, [], clamp=clamp)


def _number(value: Any) -> int:
  """A positive integer, or 0 if `value` is not one (such as None)."""
  return int(value) if type(value) in (int, float) and 0 < value < 2**20 and value == int(value) else 0


def _gan(
  names: Names,
  tensors: Tensors,
  mean: Any,
  discriminator: tuple[dict[str, Any], dict[str, Any]] | None,
  notes: list[str],
  *,
  clamp: int = 0,
) -> Gan:
  """`discriminator`: (parameters, config section); `mean`: the file's mean style, if it has one."""
  sizes = _generator_sizes(names, tensors)
  params = _filled(names, names.generator(sizes), tensors)
  if mean is None:
    notes.append(f"the file holds no mean style; it was computed from {_MEAN_SAMPLES:,} latents")
    params["w_mean"] = _mean_style(params["mapping"], sizes)
  else:
    slot = Slot("latent_avg", (sizes.latent,), "w_mean", "vector")
    params |= layouts.fill([slot], {"latent_avg": mean})
  resolution = 4 * 2 ** (len(sizes.channels) - 1)
  section = {"channels": sizes.channels}
  if discriminator is None:
    notes.append("the file holds no discriminator, which GAN2Shape needs")
  else:
    params["discriminator"], section = discriminator
    if len(section["channels"]) != len(sizes.channels):
      raise Unreadable("its generator and its discriminator are for images of different sizes")
  config = {
    "method": "stylegan2",
    "mapping": {"size": sizes.latent, "layers": sizes.layers, "rate": 0.01},
    "synthesis": {"channels": sizes.channels, "clamp": float(clamp)},
    "discriminator": section,
    "export": {"discriminator": discriminator is not None},
    "stages": {
      **{"start": (0,), "resolution": (resolution,), "batch_size": (16,)},
      **{"generator_rate": (2e-3,), "discriminator_rate": (2e-3,)},
    },
  }
  return Gan(params, config, tuple(notes))


def _discriminator(
  names: Names, tensors: Tensors, *, group: int = 4, clamp: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(parameters, config section) of a discriminator."""
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  axis = 3 if names is TENSORFLOW else 0  # output channels of a kernel
  levels = next(n for n in itertools.count(1) if names.block[2].format(r=4 * 2**n, q=n) not in shapes)
  kernels = [names.block[2].format(r=4 * 2 ** (levels - b), q=b) for b in range(1, levels)]
  entrance = names.entrance[0].format(R=4 * 2 ** (levels - 1))
  if levels < 2 or any(len(shapes.get(name, ())) != 4 for name in (entrance, *kernels)):
    raise Unreadable("its discriminator lacks the blocks of StyleGAN2; is it another variant?")
  channels = [shapes[entrance][axis], *(shapes[name][axis] for name in kernels)]
  sizes = Sizes(tuple(channels[::-1]))
  section = {"channels": sizes.channels, "group": group, "clamp": float(clamp)}
  return _filled(names, names.discriminator(sizes), tensors), section


def _generator_sizes(names: Names, tensors: Tensors) -> Sizes:
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  layers = next(k for k in itertools.count() if names.linear[0].format(k=k, k1=k + 1) not in shapes)
  kernel = names.rgb_parts[0]
  rgbs = [names.first_rgb + kernel]
  while (following := names.rgb.format(r=4 * 2 ** len(rgbs), j=len(rgbs) - 1) + kernel) in shapes:
    rgbs.append(following)
  if not layers or len(rgbs) < 2 or any(len(shapes.get(name, ())) < 4 for name in rgbs):
    missing = names.linear[0].format(k=0, k1=1) if not layers else rgbs[0] if rgbs[0] not in shapes else following
    raise Unreadable(f"lacks the tensor {missing}; is it a StyleGAN2 generator?")
  latent = shapes[names.linear[0].format(k=0, k1=1)][-1]
  return Sizes(tuple(shapes[name][names.rgb_axis] for name in rgbs), latent, layers)


def _filled(names: Names, entries: Iterable[Entry], tensors: Tensors) -> dict[str, Any]:
  """Nested parameters; every entry must be filled, and every tensor used except constants."""
  entries = {entry.name: entry for entry in entries}
  converted: dict[str, Any] = {}
  for name, tensor in tensors.items():
    if name == names.mean or name.endswith(names.constants or ("\0",)):
      continue
    converted[name] = tensor
    if name in entries:
      values = tensor.array() if isinstance(tensor, Tensor) else tensor
      try:
        converted[name] = entries[name].convert(values)
      except (ValueError, IndexError) as error:
        shape = printable(str(values.shape))
        raise Unreadable(f"{name} has the shape {shape}, which does not fit; is it another variant?") from error
  return layouts.fill([Slot(e.name, e.shape, e.path, "vector") for e in entries.values()], converted)


def _mean_style(mapping: Mapping[str, Any], sizes: Sizes) -> np.ndarray:
  x = np.random.default_rng(0).standard_normal((_MEAN_SAMPLES, sizes.latent), np.float32)
  x /= np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-8)
  for k in range(sizes.layers):
    layer = mapping[f"linear_{k}"]
    x = x @ layer["kernel"] * np.float32(0.01 / sizes.latent**0.5) + np.float32(0.01) * layer["bias"]
    x = np.float32(2**0.5) * np.where(x > 0, x, np.float32(0.2) * x)
  return x.mean(0)
