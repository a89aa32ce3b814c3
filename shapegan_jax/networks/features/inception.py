"""InceptionV3 as used by the Frechet Inception distance (Szegedy et al. 2015; Heusel et al. 2017).

This is the network of TensorFlow's file inception-2015-12-05, which differs from the one in current model collections:
1008 classes, average pooling that does not count the padding, and max instead of average pooling in the last block. The
weights come from a file that the user provides (`convert.inception`); none are part of this package. Convolutions have
the names of the PyTorch port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

INPUT_SIZE = 299
FEATURES, CLASSES = 2048, 1008

Size = tuple[int, int]
Conv = Callable[..., Array]
"""(name, x, channels, kernel size, stride=1, padding="SAME") -> that convolution with batch norm and ReLU."""


def inception_input(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
  """Images in [-1, 1] at the network's input size, resized as in the PyTorch port: bilinear, without antialiasing."""
  size = (images.shape[0], INPUT_SIZE, INPUT_SIZE, 3)
  enlarged = jax.image.resize(images.astype(jnp.float32) / 255, size, "bilinear", antialias=False)
  return 2 * enlarged - 1


def inception_features(params: Mapping[str, Any], images: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
  """The output of the last block, averaged over the pixels. Images are in [-1, 1], at least 75 x 75 pixels.

  `params` is {name: {"kernel": [height, width, in, out], "bias": [out]}}, with the batch norms folded in.
  """

  def conv(name: str, x: Array, channels: int, size: Size, stride: int = 1, padding: str = "SAME") -> Array:
    layer = params[name]
    return _conv(x, layer["kernel"], layer["bias"], stride, padding)

  return _trunk(conv, images).mean((1, 2))


def inception_probabilities(params: Mapping[str, Any], features: Float[Array, "b 2048"]) -> Float[Array, "b 1008"]:
  """Probabilities of the 1008 classes. The bias is left out, as in the original code of the Inception score."""
  return jax.nn.softmax(features @ params["fc"]["kernel"])


def convolution_shapes() -> dict[str, tuple[int, int, int, int]]:
  """Name -> kernel shape [height, width, in, out] of every convolution, in the order of the network."""
  shapes: dict[str, tuple[int, int, int, int]] = {}

  def conv(name: str, x: Array, channels: int, size: Size, stride: int = 1, padding: str = "SAME") -> Array:
    shapes[name] = (*size, x.shape[-1], channels)
    return _conv(x, jnp.zeros(shapes[name]), jnp.zeros(channels), stride, padding)

  jax.eval_shape(lambda x: _trunk(conv, x), jax.ShapeDtypeStruct((1, INPUT_SIZE, INPUT_SIZE, 3), jnp.float32))
  return shapes


def _conv(x: Array, kernel: Array, bias: Array, stride: int, padding: str) -> Array:
  x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return jax.nn.relu(x + bias.reshape(1, 1, 1, -1))


def max_pool(x: Float[Array, "b h w c"], *, stride: int, padding: Literal["SAME", "VALID"]) -> Float[Array, "b _ _ c"]:
  """Max pooling over 3 x 3 pixels."""
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  """Average pooling over 3 x 3 pixels with stride 1; pixels outside the image are not counted."""

  def total(values: Array) -> Array:
    return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

  return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _trunk(conv: Conv, x: Array) -> Array:
  x = conv("Conv2d_1a_3x3", x, 32, (3, 3), 2, "VALID")
  x = conv("Conv2d_2a_3x3", x, 32, (3, 3), 1, "VALID")
  x = conv("Conv2d_2b_3x3", x, 64, (3, 3))
  x = max_pool(x, stride=2, padding="VALID")
  x = conv("Conv2d_3b_1x1", x, 80, (1, 1))
  x = conv("Conv2d_4a_3x3", x, 192, (3, 3), 1, "VALID")
  x = max_pool(x, stride=2, padding="VALID")
  for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
    x = _inception_a(conv, name, x, pooled)
  x = _inception_b(conv, "Mixed_6a", x)
  for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
    x = _inception_c(conv, name, x, width)
  x = _inception_d(conv, "Mixed_7a", x)
  x = _inception_e(conv, "Mixed_7b", x, average_pool)
  return _inception_e(conv, "Mixed_7c", x, lambda x: max_pool(x, stride=1, padding="SAME"))


def _chain(conv: Conv, x: Array, *steps: tuple) -> Array:
  for step in steps:
    x = conv(step[0], x, *step[1:])
  return x


def _inception_a(conv: Conv, block: str, x: Array, pooled: int) -> Array:
  b5, b3, one = f"{block}.branch5x5", f"{block}.branch3x3dbl", (1, 1)
  branches = [
    conv(f"{block}.branch1x1", x, 64, one),
    _chain(conv, x, (f"{b5}_1", 48, one), (f"{b5}_2", 64, (5, 5))),
    _chain(conv, x, (f"{b3}_1", 64, one), (f"{b3}_2", 96, (3, 3)), (f"{b3}_3", 96, (3, 3))),
    conv(f"{block}.branch_pool", average_pool(x), pooled, one),
  ]
  return jnp.concatenate(branches, -1)


def _inception_b(conv: Conv, block: str, x: Array) -> Array:
  b3 = f"{block}.branch3x3dbl"
  branches = [
    conv(f"{block}.branch3x3", x, 384, (3, 3), 2, "VALID"),
    _chain(conv, x, (f"{b3}_1", 64, (1, 1)), (f"{b3}_2", 96, (3, 3)), (f"{b3}_3", 96, (3, 3), 2, "VALID")),
    max_pool(x, stride=2, padding="VALID"),
  ]
  return jnp.concatenate(branches, -1)


def _inception_c(conv: Conv, block: str, x: Array, width: int) -> Array:
  b7, b77, one, row, column = f"{block}.branch7x7", f"{block}.branch7x7dbl", (1, 1), (1, 7), (7, 1)
  long = [(f"{b77}_1", width, one), (f"{b77}_2", width, column), (f"{b77}_3", width, row)]
  branches = [
    conv(f"{block}.branch1x1", x, 192, one),
    _chain(conv, x, (f"{b7}_1", width, one), (f"{b7}_2", width, row), (f"{b7}_3", 192, column)),
    _chain(conv, x, *long, (f"{b77}_4", width, column), (f"{b77}_5", 192, row)),
    conv(f"{block}.branch_pool", average_pool(x), 192, one),
  ]
  return jnp.concatenate(branches, -1)


def _inception_d(conv: Conv, block: str, x: Array) -> Array:
  b3, b7 = f"{block}.branch3x3", f"{block}.branch7x7x3"
  strips = [(f"{b7}_1", 192, (1, 1)), (f"{b7}_2", 192, (1, 7)), (f"{b7}_3", 192, (7, 1))]
  branches = [
    _chain(conv, x, (f"{b3}_1", 192, (1, 1)), (f"{b3}_2", 320, (3, 3), 2, "VALID")),
    _chain(conv, x, *strips, (f"{b7}_4", 192, (3, 3), 2, "VALID")),
    max_pool(x, stride=2, padding="VALID"),
  ]
  return jnp.concatenate(branches, -1)


def _inception_e(conv: Conv, block: str, x: Array, pool: Callable[[Array], Array]) -> Array:
  b3, b33, row, column = f"{block}.branch3x3", f"{block}.branch3x3dbl", (1, 3), (3, 1)
  short = conv(f"{b3}_1", x, 384, (1, 1))
  long = _chain(conv, x, (f"{b33}_1", 448, (1, 1)), (f"{b33}_2", 384, (3, 3)))
  branches = [
    conv(f"{block}.branch1x1", x, 320, (1, 1)),
    conv(f"{b3}_2a", short, 384, row),
    conv(f"{b3}_2b", short, 384, column),
    conv(f"{b33}_3a", long, 384, row),
    conv(f"{b33}_3b", long, 384, column),
    conv(f"{block}.branch_pool", pool(x), 192, (1, 1)),
  ]
  return jnp.concatenate(branches, -1)
