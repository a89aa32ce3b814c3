"""Distances between two sets of pictures, from their features: Frechet distance, kernel distance, Inception score.

Everything is float64 numpy on the host. The distances take features of any network; their proper names depend on the
network (`metrics.features`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float64

from shapegan_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Moments:
  """Count, mean and scatter (the sum of the outer products of deviations from the mean) of a set of vectors."""

  count: int
  mean: Float64[np.ndarray, " d"]
  scatter: Float64[np.ndarray, "d d"]

  @property
  def covariance(self) -> Float64[np.ndarray, "d d"]:
    """Unbiased: scatter / (count - 1)."""
    return self.scatter / (self.count - 1)


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
  """The moments of n >= 1 vectors."""
  features = features.astype(np.float64)
  mean = features.mean(0)
  centred = features - mean
  return Moments(len(features), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
  """The moments of both sets together (Chan et al. 1979): accurate even if the mean is far from 0."""
  count = a.count + b.count
  shift = b.mean - a.mean
  scatter = a.scatter + b.scatter + np.outer(shift, shift) * (a.count * b.count / count)
  return Moments(count, a.mean + shift * (b.count / count), scatter)


def frechet_distance(a: Moments, b: Moments) -> float:
  """|m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a^1/2 C_b C_a^1/2)^1/2 (Heusel et al. 2017, eq. 6): squared Wasserstein-2
  between the Gaussians of these moments.

  The last trace is the sum of the singular values of F_a^T F_b for any factors C = F F^T. Unlike the matrix root of
  C_a C_b it needs no offset where there are fewer pictures than features (singular covariances), and is never complex.

  Raises:
    UserError: fewer than two vectors, which have no covariance.
  """
  if min(a.count, b.count) < 2:
    raise UserError(f"Frechet distance: needs two pictures of each set, has {a.count} and {b.count}; give more")
  overlap = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
  shift = a.mean - b.mean
  return max(0.0, float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap))


def _factor(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d r"]:
  """F with F F^T = covariance and as many columns as its rank."""
  values, vectors = np.linalg.eigh(covariance)
  # Rounding turns zeros into values of this size. Their roots are not small: without the threshold a distance of 0
  # would be 1e-5 with Inception's 2048 features.
  real = values > len(values) * np.finfo(np.float64).eps * values[-1]
  return vectors[:, real] * np.sqrt(values[real])


@dataclasses.dataclass(frozen=True)
class KernelDistance:
  """A kernel distance, its standard error, and the subsets that it is averaged over."""

  mean: float
  standard_error: float
  subsets: int
  subset_size: int


def kernel_distance(
  a: Float[np.ndarray, "n d"],
  b: Float[np.ndarray, "m d"],
  *,
  subsets: int = 100,
  subset_size: int = 1000,
  seed: int = 0,
) -> KernelDistance:
  """Squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3 (KID; Binkowski et al. 2018), unbiased, so it
  is negative as often as positive for equal distributions. The mean over random subsets, drawn without replacement.

  A subset has at most half of the smaller set's pictures, so that subsets differ. The standard error is the delete-many
  jackknife's, sqrt(s / (n - s)) times the standard deviation over the subsets of s of the smaller set's n (an
  overestimate if the other set is larger): the usual deviation / sqrt(subsets) would shrink with every further subset
  although no further picture is used.

  Raises:
    UserError: fewer than four pictures in a set, or fewer than two subsets.
  """
  smaller = min(len(a), len(b))
  size = min(subset_size, smaller // 2)
  if size < 2 or subsets < 2:
    raise UserError(
      f"kernel distance: needs four pictures of each set and two subsets of two; has {len(a)} and {len(b)} pictures, "
      f"{subsets} subsets of {subset_size}; give more"
    )
  # numpy guarantees the raw output of a counter-based generator for every version.
  draws = np.random.Philox(np.random.SeedSequence(seed))

  def subset(features: np.ndarray) -> np.ndarray:
    return features[np.argsort(draws.random_raw(len(features)), kind="stable")[:size]]

  distances = [squared_discrepancy(subset(a), subset(b)) for _ in range(subsets)]
  error = np.std(distances, ddof=1) * np.sqrt(size / (smaller - size))
  return KernelDistance(float(np.mean(distances)), float(error), subsets, size)


def squared_discrepancy(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
  """The unbiased squared maximum mean discrepancy of all of a and b, two at least of each: `kernel_distance` is a mean
  of it over subsets."""
  a, b = a.astype(np.float64), b.astype(np.float64)

  def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3

  def within(x: np.ndarray) -> float:
    matrix = kernel(x, x)
    return (matrix.sum() - np.trace(matrix)) / (len(x) * (len(x) - 1))

  return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def inception_score(probabilities: Float[np.ndarray, "n classes"], *, splits: int = 10) -> tuple[float, float]:
  """exp(mean over pictures of KL(p(class | picture) || p(class))): its mean and standard deviation over `splits`
  equal parts (Salimans et al. 2016); from 1 (all pictures alike) to the number of classes. With fewer pictures
  than splits: one split.
  """
  probabilities = probabilities.astype(np.float64)
  scores = []
  for part in np.array_split(probabilities, splits if len(probabilities) >= splits else 1):
    marginal = part.mean(0, keepdims=True)
    # A class without pictures contributes nothing to the divergence.
    ratio = np.divide(part, marginal, out=np.ones_like(part), where=part > 0)
    scores.append(np.exp(np.mean(np.sum(part * np.log(ratio), 1))))
  return float(np.mean(scores)), float(np.std(scores))
