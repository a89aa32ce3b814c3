"""What a discriminator is shown: shifts, and augmentation whose probability follows its certainty."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.methods.stylegan2.augmentation import (
  AugmentConfig,
  AugmentState,
  adapted,
  augmented,
  moved,
  recolored,
  shifted,
)

KEY = jax.random.key(0)


@pytest.fixture
def image(rng):
  return jnp.asarray(rng.uniform(-1, 1, (64, 9, 9, 3)), jnp.float32)


@pytest.fixture(scope="module")
def augment():
  return jax.jit(augmented)


def test_probability_zero_is_the_identity_and_one_changes_every_picture(augment, image):
  np.testing.assert_allclose(augment(image, KEY, 0.0), image, atol=2e-6)
  assert np.all(np.abs(np.asarray(augment(image, KEY, 1.0)) - np.asarray(image)).max((1, 2, 3)) > 0.05)


def test_each_picture_is_changed_with_the_probability(image):
  """Five coins: brightness, contrast, negative (which changes something every other time), hue and saturation."""
  p = 0.2
  changed = np.abs(np.asarray(jax.jit(recolored)(image, KEY, p)) - np.asarray(image)).max((1, 2, 3)) > 1e-3
  expected = 1 - (1 - p) ** 4 * (1 - p / 2)
  assert abs(changed.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 64)


def test_a_plain_picture_stays_plain_and_moves_keep_the_range(image):
  move = jax.jit(moved)
  np.testing.assert_allclose(move(0.3 * jnp.ones((8, 9, 9, 1)), KEY, 1.0), 0.3, atol=1e-6)
  out = np.asarray(move(image, KEY, 1.0))
  assert out.min() >= -1
  assert out.max() <= 1


def test_colors_turn_about_the_grey_axis(image):
  """Up to contrast, sign and brightness, the grey part and the size of the colour around it are kept or scaled."""
  before, after = np.asarray(image), np.asarray(jax.jit(recolored)(image, KEY, 1.0))
  grey = [x.mean(-1).reshape(64, -1) for x in (before, after)]
  color = [np.linalg.norm(x - x.mean(-1, keepdims=True), axis=-1).reshape(64, -1) for x in (before, after)]
  for i in range(64):
    slope, start = np.polyfit(grey[0][i], grey[1][i], 1)
    np.testing.assert_allclose(grey[1][i], slope * grey[0][i] + start, atol=1e-4)
    scale = np.median(color[1][i] / color[0][i])
    np.testing.assert_allclose(color[1][i], scale * color[0][i], rtol=1e-3, atol=1e-5)


def test_augmentation_is_differentiable_in_the_picture(rng):
  image, direction = (jnp.asarray(rng.uniform(-1, 1, (2, 5, 5, 3)), jnp.float32) for _ in range(2))
  answer, pull_back = jax.vjp(lambda x: augmented(x, KEY, 0.7), image)
  g = jnp.asarray(rng.normal(size=answer.shape), jnp.float32)
  # It is affine in the picture, so that differences are exact.
  difference = augmented(image + direction, KEY, 0.7) - answer
  np.testing.assert_allclose(jnp.sum(g * difference), jnp.sum(pull_back(g)[0] * direction), rtol=1e-3)
  assert float(jnp.abs(pull_back(g)[0]).max()) > 0


def test_shifts_are_of_whole_pixels_and_fill_with_the_edge(rng):
  image = np.ones((200, 8, 8, 1), np.float32)
  image[:, 2:6, 3:5] = rng.uniform(-1, 0.5, (200, 4, 2, 1))
  out = np.asarray(shifted(jnp.asarray(image), KEY, 0.25))
  found = set()
  for before, after in zip(image, out, strict=True):
    (row, column, _) = np.argwhere(after < 1)[0]
    np.testing.assert_array_equal(after, np.roll(before, (row - 2, column - 3), (0, 1)))
    found.add((row - 2, column - 3))
  assert {abs(x) for shift in found for x in shift} == {0, 1, 2}
  np.testing.assert_array_equal(shifted(jnp.asarray(image), KEY, 0.0), image)
  striped = np.tile(np.arange(8, dtype=np.float32)[None, :, None, None], (4, 1, 8, 1))
  moved_stripes = np.asarray(shifted(jnp.asarray(striped), KEY, 0.25))
  assert moved_stripes.min() == 0
  assert moved_stripes.max() == 7


def test_the_probability_follows_the_discriminators_certainty():
  config = AugmentConfig(adaptive=True, target=0.6, images=1000)
  state = dataclasses.replace(AugmentState.fresh(), probability=jnp.float32(0.5), real_sign=jnp.float32(0.6))
  sure, unsure = (adapted(state, jnp.array([x] * 10), config) for x in (3.0, -0.1))
  np.testing.assert_allclose(sure.probability, 0.51, rtol=1e-6)
  np.testing.assert_allclose(unsure.probability, 0.49, rtol=1e-6)
  np.testing.assert_allclose(sure.real_sign, 0.6 + 10 / 256 * 0.4, rtol=1e-6)
  low = adapted(AugmentState.fresh(), jnp.array([-1.0]), config)
  assert float(low.probability) == 0.0
  full = dataclasses.replace(state, probability=jnp.float32(1.0))
  assert float(adapted(full, jnp.array([1.0] * 256), config).probability) == 1.0
