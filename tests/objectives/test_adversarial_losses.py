"""The adversarial losses against numpy, and R1 against finite differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.objectives.adversarial import (
  LogisticLoss,
  RelativisticLoss,
  choose_loss,
  consistency_loss,
  logits_and_penalty,
  top_k_mean,
)

LOGISTIC = LogisticLoss()


def _softplus(x):
  return np.log1p(np.exp(x))


def test_losses_are_the_logistic_ones(rng):
  real, fake = rng.standard_normal((2, 6)).astype(np.float32)
  expected = _softplus(fake).mean() + _softplus(-real).mean()
  np.testing.assert_allclose(LOGISTIC.discriminator(jnp.asarray(real), jnp.asarray(fake)), expected, rtol=1e-6)
  np.testing.assert_allclose(LOGISTIC.generator(jnp.asarray(fake)), _softplus(-fake).mean(), rtol=1e-6)


def test_the_relativistic_loss_compares_each_fake_with_its_real_picture(rng):
  real, fake = rng.standard_normal((2, 6)).astype(np.float32)
  loss, arrays = RelativisticLoss(), (jnp.asarray(real), jnp.asarray(fake))
  np.testing.assert_allclose(loss.discriminator(*arrays), _softplus(-(real - fake)).mean(), rtol=1e-6)
  np.testing.assert_allclose(loss.generator(arrays[1], arrays[0]), _softplus(-(fake - real)).mean(), rtol=1e-6)
  assert loss.pairs
  assert not LOGISTIC.pairs


def test_an_unknown_loss_is_named():
  assert choose_loss("logistic") == LOGISTIC
  with pytest.raises(UserError, match=r"objectives.loss: 'hinge' is not one of logistic, relativistic"):
    choose_loss("hinge")


def test_a_fooled_discriminator_costs_the_generator_nothing_and_huge_logits_stay_finite():
  assert LOGISTIC.generator(jnp.array([1e4])) == 0
  np.testing.assert_allclose(LOGISTIC.generator(jnp.array([-1e4])), 1e4)
  assert np.all(np.isfinite(jax.grad(LOGISTIC.generator)(jnp.array([1e4, -1e4, 0.0]))))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_top_k_counts_the_ceiling_of_the_fraction_of_the_highest_logits(rng, n):
  losses, logits = rng.standard_normal((2, 3, n)).astype(np.float32)
  mean = jax.jit(lambda p: top_k_mean(jnp.asarray(losses), jnp.asarray(logits), fraction=p))
  for fraction in (1.0, 0.99, 0.8, 0.6, 0.25, 1e-3):
    count = max(1, math.ceil(fraction * n - 1e-4))
    expected = [losses[i][np.argsort(-logits[i])[:count]].mean() for i in range(3)]
    np.testing.assert_allclose(mean(fraction), expected, rtol=1e-5, atol=1e-6)


def test_top_k_of_equal_logits_keeps_the_count_and_only_the_kept_get_gradient():
  gradient = jax.grad(lambda x: LOGISTIC.generator(x, top_fraction=0.6))(jnp.zeros(5))
  np.testing.assert_allclose(gradient, [-1 / 6, -1 / 6, -1 / 6, 0, 0], rtol=1e-6)


def test_r1_of_a_linear_discriminator_is_its_squared_weight_per_image(rng):
  weight = jnp.asarray(rng.standard_normal((4, 4, 3)), jnp.float32)
  images = jnp.asarray(rng.standard_normal((3, 4, 4, 3)), jnp.float32)
  logits, penalty, other = logits_and_penalty(lambda x: (jnp.einsum("bhwc,hwc->b", x, weight), x), images)
  np.testing.assert_array_equal(other, images)
  np.testing.assert_allclose(logits, np.einsum("bhwc,hwc->b", images, weight), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(penalty, np.full(3, np.sum(np.square(weight))), rtol=1e-5)


def test_r1_and_its_gradient_are_finite_differences(rng):
  images = jnp.asarray(rng.standard_normal((2, 2, 2, 1)), jnp.float32)
  weights = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)

  def discriminator(w, x):
    return jnp.sum(jnp.sin(x.reshape(-1, 4) @ w), -1)

  def penalty(w):
    return logits_and_penalty(lambda x: (discriminator(w, x), None), images)[1].mean()

  h, expected = 1e-2, 0.0
  for pixel in np.ndindex(2, 2, 1):
    step = np.zeros((1, 2, 2, 1), np.float32)
    step[0][pixel] = h
    expected += np.mean(
      ((discriminator(weights, images + step) - discriminator(weights, images - step)) / (2 * h)) ** 2
    )
  np.testing.assert_allclose(penalty(weights), expected, rtol=2e-3)
  direction = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)
  slope = (penalty(weights + h * direction) - penalty(weights - h * direction)) / (2 * h)
  np.testing.assert_allclose(jnp.sum(jax.grad(penalty)(weights) * direction), slope, rtol=2e-2)


def test_consistency_is_the_mean_squared_error():
  np.testing.assert_allclose(consistency_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])), 2.5)
