from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry import intervals
from shapegan_jax.types import FieldSamples

importance_points, merge_sorted = jax.jit(intervals.importance_points), jax.jit(intervals.merge_sorted)

NEAR, FAR = jnp.array([0.88, 0.5]), jnp.array([1.12, 2.5])


def test_uniform_points_include_both_ends():
  t = intervals.uniform_points(NEAR, FAR, 5)
  np.testing.assert_allclose(t, np.linspace(NEAR, FAR, 5, axis=-1), rtol=1e-6)
  np.testing.assert_allclose(intervals.uniform_points(NEAR, FAR, 1), [[1.0], [1.5]], rtol=1e-6)


def test_jitter_moves_each_sample_by_at_most_half_a_spacing_and_keeps_the_order(key):
  t = intervals.uniform_points(NEAR, FAR, 6)
  spacing = (FAR - NEAR)[:, None] / 5
  moved = intervals.jitter(t, jax.random.uniform(key, t.shape, minval=-0.5, maxval=0.5))
  assert (jnp.abs(moved - t) <= spacing / 2 + 1e-6).all()
  assert (moved[:, 1:] - moved[:, :-1] >= -1e-6).all()
  alternating = jnp.array([[-0.5, 0.5] * 3] * 2)
  extreme = intervals.jitter(t, alternating, NEAR, FAR)
  np.testing.assert_allclose(extreme, t + alternating * spacing, rtol=1e-6)
  assert (extreme[:, 0] < NEAR).all()
  assert (extreme[:, -1] > FAR).all()  # published: not clamped


def test_jitter_of_a_single_sample_spans_the_range_or_stays():
  t, offsets = jnp.array([[1.0], [1.5]]), jnp.array([[0.5], [-0.5]])
  np.testing.assert_array_equal(intervals.jitter(t, offsets), t)
  np.testing.assert_allclose(intervals.jitter(t, offsets, NEAR, FAR), [[1.12], [0.5]], rtol=1e-6)


@pytest.mark.parametrize("bins", ["equal", "midpoints"])
def test_stratified_points_fill_the_range_with_one_point_a_bin(bins, key):
  low = intervals.stratified_points(NEAR, FAR, 5, jnp.zeros((2, 5)), bins=bins)
  high = intervals.stratified_points(NEAR, FAR, 5, jnp.ones((2, 5)), bins=bins)
  np.testing.assert_allclose(low[:, 0], NEAR)
  np.testing.assert_allclose(high[:, -1], FAR, rtol=1e-6)
  np.testing.assert_allclose(high[:, :-1], low[:, 1:], rtol=1e-6)
  widths = (high - low) / (FAR - NEAR)[:, None]
  expected = [0.2] * 5 if bins == "equal" else [0.125, 0.25, 0.25, 0.25, 0.125]
  np.testing.assert_allclose(widths, [expected] * 2, rtol=1e-4)
  t = intervals.stratified_points(NEAR, FAR, 5, jax.random.uniform(key, (2, 5)), bins=bins)
  assert ((t >= low) & (t <= high)).all()


def test_a_window_keeps_its_width_within_the_range():
  centre = jnp.array([1.0, 0.9, 1.1, 3.0, -1.0])
  t = intervals.window_points(centre, 0.1, 0.88, 1.12, 4)
  np.testing.assert_allclose(t[:, -1] - t[:, 0], 0.1, rtol=1e-5)
  np.testing.assert_allclose((t[:, 0] + t[:, -1]) / 2, [1.0, 0.93, 1.07, 1.07, 0.93], rtol=1e-6)
  np.testing.assert_allclose(jnp.diff(t, axis=-1), 0.1 / 3, rtol=1e-4)
  assert t.min() >= 0.88 - 1e-6
  assert t.max() <= 1.12 + 1e-6


def test_a_window_wider_than_the_range_is_the_range_even_when_the_width_is_traced():
  window = jax.jit(lambda width: intervals.window_points(jnp.ones(2) * 0.9, width, NEAR, FAR, 3))
  np.testing.assert_allclose(window(5.0), [[0.88, 1.0, 1.12], [0.5, 1.5, 2.5]], rtol=1e-6)


def test_fenceposts_enclose_each_sample_and_span_the_range():
  t = jnp.array([[0.9, 0.9, 1.0, 1.1], [0.4, 1.0, 2.0, 2.6]])  # the second ray's ends were jittered out of its range
  tdist = intervals.fenceposts(t, NEAR, FAR)
  assert tdist.shape == (2, 5)
  np.testing.assert_allclose(tdist[:, [0, -1]], jnp.stack([NEAR, FAR], -1))
  np.testing.assert_allclose(tdist[:, 2], [0.95, 1.5])
  assert (jnp.diff(tdist) >= 0).all()
  inside = jnp.clip(t, NEAR[:, None], FAR[:, None])
  assert ((tdist[:, :-1] <= inside) & (inside <= tdist[:, 1:])).all()


def test_deltas_up_to_far_are_the_part_of_each_interval_within_the_range():
  t = jnp.array([[0.88, 1.0, 1.0, 1.1], [0.4, 1.0, 2.0, 2.6]])
  deltas = intervals.deltas_of(t, NEAR, FAR)
  np.testing.assert_allclose(deltas, [[0.12, 0, 0.1, 0.02], [0.5, 1.0, 0.5, 0]], atol=1e-6)
  np.testing.assert_allclose(deltas.sum(-1), FAR - NEAR, rtol=1e-6)


def test_the_other_two_last_intervals_differ_only_in_the_last():
  t = jnp.array([[0.9, 1.0, 1.05]])
  np.testing.assert_allclose(intervals.deltas_of(t, 0.88, 1.12, last="published"), [[0.1, 0.05, 1e10]], rtol=1e-5)
  np.testing.assert_allclose(intervals.deltas_of(t, 0.88, 1.12, last="infinite"), [[0.1, 0.05, np.inf]], rtol=1e-5)


def published_importance_points(t, weights, u):
  """A slow reference, one ray and one u at a time, in float32 as the original."""
  bins = (t[1:] + t[:-1]) / 2
  pdf = weights[1:-1] + np.float32(1e-5) + np.float32(1e-5)
  cdf = np.concatenate([[0], np.cumsum(pdf / pdf.sum())]).astype(np.float32)
  points = []
  for value in u:
    index = np.searchsorted(cdf, value, side="left")
    below, above = max(index - 1, 0), min(index, len(cdf) - 1)
    step = cdf[above] - cdf[below]
    step = 1.0 if step < 1e-5 else step
    points.append(bins[below] + (value - cdf[below]) / step * (bins[above] - bins[below]))
  return np.array(points)


def test_importance_points_are_those_of_the_published_algorithm(rng):
  t = np.sort(rng.uniform(0.88, 1.12, (40, 7)).astype(np.float32))
  t[5, 3] = t[5, 2]  # zero-width interval
  weights = rng.dirichlet(np.full(7, 0.2), 40).astype(np.float32)
  weights[:3] = 0
  weights[3] = [0, 0, 0, 1, 0, 0, 0]
  weights[4] *= 10  # not normalised: steps under 1e-5 appear
  weights[4, 2:4] = 0
  u = rng.uniform(size=(40, 9)).astype(np.float32)
  u[:, 0], u[:, 1] = 0, 1
  expected = [published_importance_points(*ray) for ray in zip(t, weights, u, strict=True)]
  points = importance_points(jnp.array(t), jnp.array(weights), jnp.array(u))
  # Flat parts of the distribution have steps near 2e-5, where the rounding of its float32 sum is 1 % of a bin.
  np.testing.assert_allclose(points, expected, atol=0.01 * 0.24)
  assert np.median(np.abs(points - np.array(expected))) < 1e-6


def test_importance_points_spread_over_even_weights_and_gather_at_a_peak():
  t, u = jnp.linspace(0, 1, 9)[None], jnp.linspace(0, 1, 5)[None]
  even = importance_points(t, jnp.ones((1, 9)), u)
  np.testing.assert_allclose(even, 1 / 16 + 7 / 8 * u, rtol=1e-5)
  peak = importance_points(t, jnp.eye(9)[4:5], u[:, 1:-1])
  assert (jnp.abs(peak - 0.5) < 1 / 16).all()


def test_a_step_of_the_distribution_under_1e_5_counts_as_1():
  # The middle bin, from 0.375 to 0.625, holds 5e-6 of the mass, around u = 1/2: published is its beginning.
  points = importance_points(jnp.linspace(0, 1, 5)[None], jnp.array([[0.0, 2, 0, 2, 0]]), jnp.full((1, 1), 0.5))
  np.testing.assert_allclose(points, 0.375, atol=1e-5)


def test_no_gradient_passes_through_importance_points(rng):
  t, weights = jnp.linspace(0, 1, 5)[None], jnp.array(rng.uniform(size=(1, 5)), jnp.float32)
  total = lambda t, weights: importance_points(t, weights, jnp.full((1, 3), 0.4)).sum()  # noqa: E731
  for gradient in jax.grad(total, argnums=(0, 1))(t, weights):
    assert (gradient == 0).all()
  with pytest.raises(ValueError, match="at least 3"):
    importance_points(t[:, :2], weights[:, :2], weights)


def samples_of(t):
  return FieldSamples(raw=2 * t, color=jnp.stack([t, t**2, -t], -1), gradient=None)


def test_merging_sorts_and_keeps_samples_with_their_t(rng):
  both = jnp.array(rng.uniform(size=(3, 2, 9)), jnp.float32)
  t_a, t_b = both[..., :4], both[..., 4:]
  t, samples = merge_sorted(t_a, t_b, samples_of(t_a), samples_of(t_b))
  np.testing.assert_array_equal(t, np.sort(both, -1))
  np.testing.assert_array_equal(samples.raw, samples_of(t).raw)
  np.testing.assert_array_equal(samples.color, samples_of(t).color)
  assert samples.gradient is None
  swapped, _ = merge_sorted(t_b, t_a)
  np.testing.assert_array_equal(swapped, t)


def test_merging_keeps_the_order_of_equal_t():
  t_a, t_b = jnp.array([[0.5, 0.7, 0.7]]), jnp.array([[0.7, 0.5]])
  t, label = merge_sorted(t_a, t_b, jnp.array([[0, 1, 2]]), jnp.array([[3, 4]]))
  np.testing.assert_allclose(t, [[0.5, 0.5, 0.7, 0.7, 0.7]])
  np.testing.assert_array_equal(label, [[0, 4, 1, 2, 3]])


def test_the_gradient_flows_through_merged_samples_to_both_parts():
  t_a, t_b = jnp.array([[0.1, 0.5]]), jnp.array([[0.3]])

  def loss(raw_a, raw_b):
    return jnp.sum(merge_sorted(t_a, t_b, raw_a, raw_b)[1] * jnp.array([[1.0, 10.0, 100.0]]))

  gradient_a, gradient_b = jax.grad(loss, argnums=(0, 1))(t_a, t_b)
  np.testing.assert_array_equal(gradient_a, [[1, 100]])
  np.testing.assert_array_equal(gradient_b, [[10]])
