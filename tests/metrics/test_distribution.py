"""Frechet distance, kernel distance and Inception score against closed forms and explicit loops."""

import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.metrics.distribution import (
  Moments,
  frechet_distance,
  inception_score,
  kernel_distance,
  merge,
  moments,
  squared_discrepancy,
)


def _moments(mean, covariance, count=100):
  return Moments(count, np.asarray(mean, np.float64), np.asarray(covariance, np.float64) * (count - 1))


def _rotation(rng, d):
  return np.linalg.qr(rng.standard_normal((d, d)))[0]


def test_moments_of_parts_merge_to_those_of_the_whole_far_from_the_origin(rng):
  features = rng.standard_normal((57, 5)) * [1, 2, 3, 4, 5] + 1e6
  merged = moments(features[:1])
  for part in (features[1:20], features[20:21], features[21:]):
    merged = merge(merged, moments(part))
  assert merged.count == 57
  np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-14)
  np.testing.assert_allclose(merged.covariance, np.cov(features.T), rtol=1e-8, atol=1e-7)


def test_frechet_distance_of_gaussians_with_common_axes_is_the_closed_form(rng):
  turn, a, b = _rotation(rng, 6), rng.uniform(0, 4, 6), rng.uniform(0, 4, 6)
  shift = rng.standard_normal(6)
  expected = shift @ shift + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
  found = frechet_distance(_moments(shift, turn * a @ turn.T), _moments(np.zeros(6), turn * b @ turn.T))
  assert found == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_gaussians_in_the_plane_is_the_closed_form(rng):
  # With axes of their own: tr (C_a C_b)^1/2 = sqrt(tr C_a C_b + 2 sqrt(det C_a C_b)) for 2 x 2 matrices.
  a, b = (x @ x.T for x in rng.standard_normal((2, 2, 2)))
  overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
  expected = np.trace(a) + np.trace(b) - 2 * overlap
  assert frechet_distance(_moments([0, 0], a), _moments([0, 0], b)) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_is_exact_where_covariances_are_singular(rng):
  turn = _rotation(rng, 50)
  a, b = np.zeros(50), np.zeros(50)
  a[:3], b[2:5] = [4, 1, 9], [1, 25, 4]  # ranks 3 and 3; they share the direction of index 2
  expected = 4 + 1 + (3 - 1) ** 2 + 25 + 4
  zero = np.zeros(50)
  found = frechet_distance(_moments(zero, turn * a @ turn.T), _moments(zero, turn * b @ turn.T))
  assert found == pytest.approx(expected, rel=1e-12)
  assert frechet_distance(_moments(zero, 0 * turn), _moments(zero, turn * b @ turn.T)) == pytest.approx(30)
  assert frechet_distance(_moments(zero, 0 * turn), _moments(zero, 0 * turn)) == 0


@pytest.mark.parametrize("count", [10, 400])
def test_frechet_distance_of_a_set_to_itself_is_zero_with_more_features_than_pictures_too(count, rng):
  features = rng.standard_normal((count, 200)).astype(np.float32) * 10 + 5
  ours = moments(features)
  assert 0 <= frechet_distance(ours, merge(moments(features[5:]), moments(features[:5]))) < 1e-9 * 200 * 100


def test_frechet_distance_is_symmetric_and_needs_two_pictures(rng):
  a, b = moments(rng.standard_normal((30, 8))), moments(rng.standard_normal((20, 8)) * 2 + 1)
  assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
  with pytest.raises(UserError, match="two pictures of each set, has 1 and 20"):
    frechet_distance(moments(np.zeros((1, 8))), b)


def test_discrepancy_is_that_of_explicit_double_loops(rng):
  a, b = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)) * 1.5 + 0.5

  def kernel(x, y):
    return (sum(x * y) / 3 + 1) ** 3

  def within(x):
    n = len(x)
    return sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

  expected = within(a) + within(b) - 2 * sum(kernel(x, y) for x in a for y in b) / 35
  assert squared_discrepancy(a, b) == pytest.approx(expected, rel=1e-12)


def test_discrepancy_of_two_draws_from_one_distribution_is_zero_on_average(rng):
  found = np.array([squared_discrepancy(*rng.standard_normal((2, 12, 4))) for _ in range(1000)])
  # With the diagonals, or dividing by n^2 without them, it would be off by more than 0.5.
  assert abs(found.mean()) < 3 * found.std() / np.sqrt(1000) < 0.1
  assert found.min() < 0


def test_kernel_distance_is_the_discrepancy_of_the_whole_up_to_its_standard_error(rng):
  """Over repeated draws it scatters about what many pictures give, as widely as its standard error says."""
  kept = 50

  def pictures(n):
    return rng.standard_normal((n, 4)), rng.standard_normal((n, 4)) * 1.3 + 1

  draws = [kernel_distance(*pictures(60), subsets=20) for _ in range(kept)]
  means, errors = (np.array([getattr(draw, name) for draw in draws]) for name in ("mean", "standard_error"))
  assert abs(means.mean() - squared_discrepancy(*pictures(3000))) < 4 * means.std() / np.sqrt(kept)
  assert 0.6 < errors.mean() / means.std() < 1.6  # the deviation is known to 10 %


def test_kernel_distance_is_reproducible_and_states_reduced_subsets(rng):
  a, b = rng.standard_normal((90, 4)), rng.standard_normal((31, 4))
  found = kernel_distance(a, b)
  assert found == kernel_distance(a, b)
  assert (found.subsets, found.subset_size) == (100, 15)
  assert kernel_distance(a, b, subset_size=10).subset_size == 10
  with pytest.raises(UserError, match="needs four pictures"):
    kernel_distance(a[:3], b)


def test_inception_score_is_one_without_and_the_number_of_classes_with_perfect_variety():
  alike = np.tile([[0.7, 0.2, 0.1]], (40, 1))
  assert inception_score(alike) == pytest.approx((1, 0))
  assert inception_score(np.eye(5)[np.arange(100) % 5]) == pytest.approx((5, 0))
  # Two halves: one varied, one constant.
  assert inception_score(np.eye(4)[[0, 1, 2, 3, 0, 0, 0, 0]], splits=2) == pytest.approx((2.5, 1.5))
  # exp(mutual information) of a noisy binary channel.
  p = 0.9
  expected = 2 * np.exp(p * np.log(p) + (1 - p) * np.log(1 - p))
  assert inception_score(np.tile([[p, 1 - p], [1 - p, p]], (50, 1)))[0] == pytest.approx(expected)
