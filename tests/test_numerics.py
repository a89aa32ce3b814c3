from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.numerics import fast_cos, fast_sin, l2_normalize, safe_div


def test_fast_sine_and_its_first_three_derivatives_are_within_2e_5():
  x = np.linspace(-100, 100, 40_001, dtype=np.float32)
  reference = x.astype(np.float64)
  orders = [fast_sin]
  for _ in range(3):
    orders.append(jax.grad(orders[-1]))
  measured = jax.jit(lambda x: [jax.vmap(f)(x) for f in [*orders, fast_cos]])(jnp.array(x))
  expected = [np.sin(reference), np.cos(reference), -np.sin(reference), -np.cos(reference), np.cos(reference)]
  for index, (value, truth) in enumerate(zip(measured, expected, strict=True)):
    assert np.abs(value - truth).max() < 2e-5, f"function {index}"


def test_fast_sine_is_odd_bounded_and_right_at_the_seams_of_its_range_reduction():
  turns = np.arange(-8, 9, dtype=np.float64)[:, None] / 4 + np.array([-1e-6, 0.0, 1e-6])
  x = jnp.array(turns * 2 * np.pi, jnp.float32)
  assert np.abs(fast_sin(x) - np.sin(np.asarray(x, np.float64))).max() < 2e-5
  np.testing.assert_array_equal(fast_sin(-x), -fast_sin(x))
  assert fast_sin(jnp.float32(0.0)) == 0.0


def test_safe_div_divides_where_it_can_and_has_finite_gradients_everywhere():
  denominators = jnp.array([2.0, -4.0, 0.0, 1e-30, -1e-30, 1e10])
  np.testing.assert_allclose(safe_div(jnp.ones(6), denominators), [0.5, -0.25, 0, 0, 0, 1e-10])
  gradients = jax.grad(lambda n, d: safe_div(n, d).sum(), argnums=(0, 1))(jnp.ones(6), denominators)
  np.testing.assert_allclose(gradients[0], [0.5, -0.25, 0, 0, 0, 1e-10])
  np.testing.assert_allclose(gradients[1], [-0.25, -0.0625, 0, 0, 0, -1e-20])


def test_l2_normalize_makes_unit_vectors_and_survives_zero():
  vectors = jnp.array([[3.0, 0, 4], [1e-4, 0, 0], [1e10, 1e10, 0], [0, 0, 0]])
  units, pullback = jax.vjp(l2_normalize, vectors)
  np.testing.assert_allclose(jnp.linalg.norm(units, axis=-1), [1, 1, 1, 0], rtol=1e-6)
  np.testing.assert_allclose(units[0], [0.6, 0, 0.8], rtol=1e-6)
  (gradient,) = pullback(units)
  assert np.isfinite(gradient).all()
  # The length of a unit vector does not change: no gradient along the vector itself.
  np.testing.assert_allclose(jnp.sum(gradient * vectors, -1), 0, atol=1e-5)
