"""The surface-tracking loss: closed forms and who learns from it."""

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.objectives.shape import normal_smoothness, opacity_prior, surface_tracking_loss

RANGE = {"near": 0.88, "far": 1.12}


def test_a_map_off_by_a_tenth_of_the_range_costs_a_fifth():
  loss = surface_tracking_loss(jnp.full((2, 8, 8), 0.6), jnp.full((2, 8, 8), 1.0), **RANGE)
  np.testing.assert_allclose(loss, 0.2, rtol=1e-5)


def test_a_rendered_map_of_another_size_is_resized_bilinearly():
  ramp = jnp.broadcast_to(jnp.linspace(0.9, 1.1, 16)[None, None], (1, 16, 16))
  relative = (jax.image.resize(ramp, (1, 32, 32), "bilinear") - 0.88) / 0.24
  np.testing.assert_allclose(surface_tracking_loss(relative, ramp, **RANGE), 0, atol=1e-6)


def test_only_the_surface_network_learns():
  relative, distance = jnp.full((1, 4, 4), 0.7), jnp.full((1, 4, 4), 1.0)
  by_map, by_distance = jax.grad(lambda r, d: surface_tracking_loss(r, d, **RANGE), (0, 1))(relative, distance)
  np.testing.assert_allclose(by_map, 2 / 16, rtol=1e-5)
  assert not np.any(by_distance)


def test_the_perceptual_term_sees_three_equal_channels_in_the_signed_range():
  seen = []

  def perceptual(picture, reference):
    seen.extend([picture, reference])
    return jnp.full((1,), 3.0)

  relative, distance = jnp.full((1, 4, 4), 1.0), jnp.full((1, 4, 4), 0.88)
  loss = surface_tracking_loss(relative, distance, **RANGE, perceptual_fn=perceptual)
  np.testing.assert_allclose(loss, 2 + 3, rtol=1e-5)
  np.testing.assert_allclose(seen[0], np.ones((1, 4, 4, 3)), rtol=1e-6)
  np.testing.assert_allclose(seen[1], -np.ones((1, 4, 4, 3)), atol=1e-5)


def test_the_opacity_prior_is_zero_at_certainty_and_largest_at_a_half():
  np.testing.assert_allclose(opacity_prior(jnp.array([0.0, 1.0])), 0.0, atol=1e-6)
  np.testing.assert_allclose(opacity_prior(jnp.array([0.5])), 1.18562, atol=1e-5)
  assert float(jax.grad(opacity_prior)(jnp.array([0.4]))[0]) > 0, "below a half it pushes down"
  assert float(jax.grad(opacity_prior)(jnp.array([0.6]))[0]) < 0


def test_normal_smoothness_counts_the_rays_that_hit(rng):
  pair = jnp.asarray(rng.normal(size=(5, 2, 3)), jnp.float32)
  found = jnp.array([True, False, True, True, False])
  first, second = np.asarray(pair[:, 0]), np.asarray(pair[:, 1])
  hit = np.asarray(found)
  np.testing.assert_allclose(normal_smoothness(pair, found), np.mean((first - second)[hit] ** 2), rtol=1e-5)
  released = np.mean((np.asarray(pair)[hit, :, 0] - np.asarray(pair)[hit, :, 1]) ** 2)
  np.testing.assert_allclose(normal_smoothness(pair, found, pairing="components"), released, rtol=1e-5)
  assert float(normal_smoothness(pair, jnp.zeros(5, bool))) == 0.0
