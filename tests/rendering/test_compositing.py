from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from shapegan_jax.geometry.intervals import deltas_of, uniform_points
from shapegan_jax.rendering import compositing
from shapegan_jax.rendering.compositing import composite, density_to_alphas, expected_distance

weights_from_alphas = jax.jit(compositing.weights_from_alphas)


@jax.jit
def density_to_weights(densities, deltas):
  """The way that every density takes: alphas, then weights."""
  return compositing.weights_from_alphas(density_to_alphas(densities, deltas))


EPS = np.finfo(np.float32).eps


def weights_by_loop(alphas):
  """The definition, one ray and one sample at a time, in float64."""
  weights = np.zeros(alphas.shape)
  for ray in np.ndindex(alphas.shape[:-1]):
    transmittance = 1.0
    for i, alpha in enumerate(alphas[ray].astype(np.float64)):
      weights[(*ray, i)] = alpha * transmittance
      transmittance *= 1 - alpha
  return weights


def random_alphas(rng, shape):
  """Most of them small, some exactly 0 and 1."""
  alphas = rng.beta(0.3, 1.0, shape)
  alphas[rng.uniform(size=shape) < 0.1] = 0
  alphas[rng.uniform(size=shape) < 0.05] = 1
  return alphas.astype(np.float32)


def test_weights_are_those_of_a_loop_over_the_definition(rng):
  alphas = random_alphas(rng, (2, 30, 12))
  np.testing.assert_allclose(weights_from_alphas(jnp.array(alphas)), weights_by_loop(alphas), atol=1e-6)


def test_weights_are_a_part_of_one_and_the_rest_is_the_final_transmittance(rng):
  alphas = random_alphas(rng, (500, 24))
  weights = np.asarray(weights_from_alphas(jnp.array(alphas)))
  acc = weights.sum(-1)
  assert (weights >= 0).all()
  assert (acc <= 1 + 24 * EPS).all()
  np.testing.assert_allclose(acc + np.prod(1 - alphas, -1), 1, atol=24 * EPS)


@pytest.mark.parametrize("last", ["far", "infinite", "published"])
def test_the_density_door_is_the_alpha_door(rng, last):
  t = jnp.array(np.sort(rng.uniform(0.88, 1.12, (200, 10))), jnp.float32)
  densities = jnp.array(np.maximum(rng.normal(0, 50, (200, 10)), 0), jnp.float32)
  deltas = deltas_of(t, 0.88, 1.12, last=last)
  through_alphas = weights_from_alphas(density_to_alphas(densities, deltas))
  weights = density_to_weights(densities, deltas)
  np.testing.assert_allclose(weights, through_alphas, atol=3e-6)
  if last != "far":  # any density in the last sample takes all that is left
    np.testing.assert_allclose(weights.sum(-1)[densities[:, -1] > 0], 1, atol=1e-5)


def test_a_slab_of_constant_density_absorbs_1_minus_exp_of_its_optical_depth():
  near, far = jnp.full((4,), 0.88), jnp.full((4,), 1.12)
  density = jnp.array([0.0, 1.0, 10.0, 1e6])
  for n in (1, 17):
    t = uniform_points(near, far, n) if n > 1 else near[:, None]
    weights = density_to_weights(jnp.broadcast_to(density[:, None], (4, n)), deltas_of(t, near, far))
    np.testing.assert_allclose(weights.sum(-1), 1 - np.exp(-np.asarray(density) * 0.24), rtol=1e-5)


def test_splitting_an_interval_leaves_the_sum_of_its_weights():
  densities, deltas = jnp.array([[3.0, 8.0, 1.0]]), jnp.array([[0.1, 0.2, 0.4]])
  split = density_to_weights(jnp.repeat(densities, 2, -1), jnp.repeat(deltas, 2, -1) / 2)
  np.testing.assert_allclose(split.reshape(3, 2).sum(-1), density_to_weights(densities, deltas)[0], rtol=1e-5)


def test_moving_the_density_along_the_ray_moves_the_distance_and_nothing_else():
  t, densities = jnp.array([[0.9, 1.0, 1.02, 1.1]]), jnp.array([[0.0, 30.0, 60.0, 5.0]])

  def render(shift):
    weights = density_to_weights(densities, deltas_of(t + shift, 0.88 + shift, 1.12 + shift))
    return weights, expected_distance(weights, t + shift, near=0.88 + shift, far=1.12 + shift)

  (weights, distance), (moved_weights, moved_distance) = render(0.0), render(0.5)
  np.testing.assert_allclose(moved_weights, weights, rtol=1e-4)
  # The published normaliser, acc + 1e-5, loses 1e-5 of the shift at acc = 1.
  np.testing.assert_allclose(moved_distance - distance, 0.5, atol=1e-5)


def test_values_and_gradients_are_finite_at_every_edge_of_density_and_length():
  pairs = list(itertools.product([0.0, 1e-10, 1.0, 1e10], [0.0, 1e-10, 0.02, 1e10, np.inf]))
  rays = np.array(list(itertools.product(pairs, repeat=2)), np.float32)
  densities, deltas = jnp.array(rays[..., 0]), jnp.array(rays[..., 1])

  def loss(densities, deltas):
    return jnp.sum(density_to_weights(densities, deltas) * jnp.array([[1.0, -3.0]]))

  assert np.isfinite(density_to_weights(densities, deltas)).all()
  for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(densities, deltas):
    assert np.isfinite(gradient).all()


def test_an_infinite_last_interval_gives_no_gradient_where_the_published_one_gives_1e10():
  densities, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.9, 1.0]])

  def last_weight(densities, last):
    return density_to_weights(densities, deltas_of(t, 0.88, 1.12, last=last))[0, 1]

  assert jax.grad(last_weight)(densities, "published")[0, 1] == 1e10
  assert jax.grad(last_weight)(densities, "infinite")[0, 1] == 0
  np.testing.assert_allclose(jax.grad(last_weight)(densities, "far")[0, 1], 0.12, rtol=1e-5)


def test_the_gradient_of_weights_is_exact_where_alpha_is_0_and_1():
  alphas = np.array(list(itertools.product([0.0, 0.3, 1.0], repeat=4)), np.float32)
  jacobian = jax.jit(jax.vmap(jax.jacrev(weights_from_alphas)))(alphas)
  for j in range(4):
    # A weight is linear in each alpha, so its derivative is the difference between that alpha at 1 and at 0.
    high, low = alphas.copy(), alphas.copy()
    high[:, j], low[:, j] = 1, 0
    np.testing.assert_allclose(jacobian[:, :, j], weights_by_loop(high) - weights_by_loop(low), atol=1e-6)


def test_second_derivatives_agree_with_finite_differences():
  densities, deltas = jnp.array([[2.0, 0.5, 3.0]]), jnp.array([[0.3, 0.5, 0.2]])
  check_grads(density_to_weights, (densities, deltas), order=2, modes=["rev"], atol=1e-2, rtol=1e-2)
  check_grads(weights_from_alphas, (jnp.array([[0.2, 0.7, 0.5]]),), order=2, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_compositing_is_linear_and_composites_ones_to_acc(rng):
  weights = weights_from_alphas(jnp.array(random_alphas(rng, (5, 8))))
  values = jnp.array(rng.normal(size=(5, 8, 3)), jnp.float32)
  expected = np.einsum("rs,rsc->rc", np.asarray(weights, np.float64), values)
  np.testing.assert_allclose(composite(weights, values), expected, atol=1e-6)
  np.testing.assert_allclose(composite(weights, jnp.ones((5, 8, 1)))[:, 0], weights.sum(-1), rtol=1e-6)


def test_expected_distance_is_the_surface_or_near_or_as_published_unnormalised():
  t = jnp.array([[0.9, 1.0, 1.1]] * 3)
  weights = jnp.array([[0.0, 1.0, 0.0], [0.25, 0.0, 0.25], [0.0, 0.0, 0.0]])
  mean = expected_distance(weights, t, near=jnp.full((3,), 0.88), far=jnp.full((3,), 1.12))
  np.testing.assert_allclose(mean, [1.0, 1.0, 0.88], atol=3e-5)
  plain = expected_distance(weights, t, near=0.88, far=1.12, normalise=False)
  np.testing.assert_allclose(plain, [1.0, 0.5, 0.0], rtol=1e-6)
  below = expected_distance(weights, t - 0.5, near=0.88, far=1.12)
  np.testing.assert_allclose(below, 0.88)
