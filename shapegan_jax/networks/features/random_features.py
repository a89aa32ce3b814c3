"""Features without training or download: a small convolutional network with fixed random weights.

It measures only local structure at three scales and its approximate position, not faces or objects, which is enough to
rank degrees of blur, noise, mode collapse and wrong colour. Its distances are comparable only between models on the
same data set and resolution.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

CHANNELS = (32, 32, 64)  # of the stages; each has half the resolution of the previous one
GAINS = (8.0, 2.0, 2.0)  # scale the features of face images to about 1
LEAST_SIZE = 8

Kernels = tuple[Float32[np.ndarray, "3 3 _ _"], ...]


def random_kernels(seed: int = 0) -> Kernels:
  """Gaussian 3 x 3 kernels of variance 2 / fan-in (He et al. 2015) times the gain, each with zero mean over its pixels.

  With zero mean, filters do not respond to constant brightness, which would dominate the rest; the mean colour is a
  separate feature. The numbers come from numpy's legacy generator, whose streams are frozen.
  """
  state = np.random.RandomState(seed)
  kernels, inputs = [], 3
  for outputs, gain in zip(CHANNELS, GAINS, strict=True):
    kernel = state.standard_normal((3, 3, inputs, outputs)) * (gain * np.sqrt(2 / (9 * inputs)))
    kernels.append((kernel - kernel.mean((0, 1))).astype(np.float32))
    inputs = outputs
  return tuple(kernels)


def random_features(kernels: Kernels, images: Float[Array, "b h w 3"]) -> Float[Array, "b 524"]:
  """Means over the four quadrants of the image, of its colour and of every channel of every stage after the ReLU.

  Images are in [-1, 1], with sides of at least `LEAST_SIZE` pixels.
  """
  x, features = images, [_quadrant_means(images)]
  for index, kernel in enumerate(kernels):
    if index:
      x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.nn.relu(x)
    features.append(_quadrant_means(x))
  return jnp.concatenate(features, -1)


def _quadrant_means(x: Float[Array, "b h w c"]) -> Float[Array, "b 4*c"]:
  b, h, w, c = x.shape
  x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, 2, h // 2, 2, w // 2, c)
  return x.mean((2, 4)).reshape(b, 4 * c)
