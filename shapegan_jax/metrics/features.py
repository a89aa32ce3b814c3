"""Pictures as feature vectors, and the proper names of distances between them.

The name of a distance depends on the network: only InceptionV3 with the published weights gives "FID" and "KID". The
numbers of other networks rank models on one data set just as well, but compare with no other numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from shapegan_jax.errors import UserError
from shapegan_jax.metrics.distribution import Moments, merge, moments

INCEPTION = "InceptionV3"


def frechet_name(network: str) -> str:
  """FID for InceptionV3, else FD-<network>."""
  return "FID" if network == INCEPTION else f"FD-{network}"


def kernel_name(network: str) -> str:
  """KID for InceptionV3, else KD-<network>."""
  return "KID" if network == INCEPTION else f"KD-{network}"


FeatureFn = Callable[[UInt8[np.ndarray, "b h w 3"]], tuple[Any, Any]]
"""uint8 pictures [b, h, w, 3] -> feature vectors [b, d], and class probabilities [b, classes] or None."""


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
  """A feature function, its name, and a sentence on its inputs and which features are used."""

  name: str
  apply: FeatureFn
  description: str

  @property
  def frechet_name(self) -> str:
    """The name of the Frechet distance of its features."""
    return frechet_name(self.name)

  @property
  def kernel_name(self) -> str:
    """The name of the kernel distance of its features."""
    return kernel_name(self.name)


@dataclasses.dataclass(frozen=True)
class Features:
  """The features of a set of pictures, and their moments. `probabilities` if the network is a classifier."""

  vectors: Float32[np.ndarray, "n d"]
  moments: Moments
  probabilities: Float32[np.ndarray, "n classes"] | None = None


def quantise(rgb: Float[np.ndarray, "*b 3"]) -> UInt8[np.ndarray, "*b 3"]:
  """Colours in [0, 1] quantised to 8 bits, as those of real pictures are.

  Raises:
    UserError: a colour is not a number.
  """
  if not np.isfinite(rgb).all():
    raise UserError("pictures: the model's colours are not finite; evaluate an earlier checkpoint")
  return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def collect(network: FeatureNetwork, batches: Iterable[UInt8[np.ndarray, "_ h w 3"]]) -> Features:
  """The features of all pictures of at least one batch. Shorter batches than the first are padded to its length, so
  that one compiled program serves all.
  """
  total, vectors, probabilities, length = None, [], [], None
  for pictures in batches:
    length = length or len(pictures)
    fill = np.minimum(np.arange(max(length, len(pictures))), len(pictures) - 1)
    found, classes = network.apply(pictures[fill])
    fresh = np.asarray(found, np.float32)[: len(pictures)]
    vectors.append(fresh)
    probabilities += [] if classes is None else [np.asarray(classes, np.float32)[: len(pictures)]]
    total = moments(fresh) if total is None else merge(total, moments(fresh))
  if total is None:
    raise UserError("features: no pictures were given; choose a set or a count that has some")
  return Features(np.concatenate(vectors), total, np.concatenate(probabilities) if probabilities else None)
