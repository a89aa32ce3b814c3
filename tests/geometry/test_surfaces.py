"""Entrances of rays into surfaces: brackets against a slow loop, roots of functions with known roots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.surfaces import Bracket, first_crossing, refine_root


def slow_crossing(values):
  """(index, found) of one ray, by the definition."""
  for k in range(len(values) - 1):
    if values[k] * values[k + 1] < 0:
      return k, values[0] < 0 and values[k] < 0
  return 0, False


def test_the_first_crossing_is_the_definition_s(rng):
  values = rng.normal(size=(200, 7)).astype(np.float32)
  values[:20] = -np.abs(values[:20])  # nothing there
  values[20:40, 3] = 0.0  # a zero has no sign
  t = np.sort(rng.uniform(0.8, 1.2, size=(200, 7)).astype(np.float32), -1)
  bracket = first_crossing(jnp.asarray(t), jnp.asarray(values))
  for ray in range(200):
    k, found = slow_crossing(values[ray])
    assert bool(bracket.found[ray]) == found
    if found:
      ends = [float(x[ray]) for x in (bracket.low, bracket.high, bracket.value_low, bracket.value_high)]
      assert ends == [t[ray, k], t[ray, k + 1], values[ray, k], values[ray, k + 1]]
      assert ends[2] < 0 < ends[3]
  assert 20 < int(bracket.found.sum()) < 180  # both kinds were tried


def test_a_ray_that_starts_inside_has_no_entrance():
  values = jnp.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]])
  t = jnp.broadcast_to(jnp.array([0.9, 1.0, 1.1]), (3, 3))
  assert first_crossing(t, values).found.tolist() == [False, True, False]


def bracket_of(function, low, high):
  low, high = jnp.asarray(low), jnp.asarray(high)
  return Bracket(low, high, function(low), function(high), jnp.ones(low.shape, bool))


def test_one_chord_finds_the_root_of_a_line():
  roots = jnp.array([0.91, 1.0, 1.05])
  line = lambda t: 3.0 * (t - roots)  # noqa: E731
  found = refine_root(line, bracket_of(line, jnp.full(3, 0.88), jnp.full(3, 1.12)), 0)
  np.testing.assert_allclose(found, roots, atol=1e-6)


@pytest.mark.parametrize(("rule", "steps", "tolerance"), [("secant", 8, 2e-4), ("bisection", 12, 0.24 / 2**13)])
def test_roots_of_a_curve_are_found_as_closely_as_the_rule_promises(rule, steps, tolerance):
  roots = jnp.array([0.9, 0.97, 1.1])
  curve = lambda t: jnp.exp(4 * (t - roots)) - 1  # noqa: E731
  bracket = bracket_of(curve, jnp.full(3, 0.88), jnp.full(3, 1.12))
  found = refine_root(curve, bracket, steps, rule=rule)
  assert float(jnp.abs(found - roots).max()) <= tolerance + 1e-6
  # Fewer steps are worse, so the steps do something.
  assert float(jnp.abs(refine_root(curve, bracket, 1, rule=rule) - roots).max()) > 5 * tolerance


def test_rays_without_a_surface_answer_finite_numbers_with_finite_gradients():
  t = jnp.broadcast_to(jnp.linspace(0.88, 1.12, 5), (2, 5))

  def total(offset):
    bracket = first_crossing(t, jnp.full((2, 5), -1.0) + offset)
    return refine_root(lambda x: x * 0 - 1.0, bracket, 3).sum()

  assert np.isfinite(float(total(0.0)))
  assert np.isfinite(float(jax.grad(total)(0.0)))
