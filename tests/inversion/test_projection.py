"""Projection: a generator's own pictures are found again, each for itself, within its mask, and always the same way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.inversion.projection import ProjectionConfig, Projector, masked_psnr
from shapegan_jax.rng import stream
from shapegan_jax.types import record

SIZE, LATENT, STEPS = 8, 6, 120


@record
class RandomGan:
  """Pictures by two layers of random weights; w is neither centred nor equally wide in all directions."""

  inner: object  # [latent, 24]
  outer: object  # [24, pixels]
  discriminator: object  # [3, 4]

  resolution = SIZE
  latent_size = LATENT

  @classmethod
  def make(cls, key):
    inner, outer, discriminator = jax.random.split(key, 3)
    return cls(
      jax.random.normal(inner, (LATENT, 24)) / LATENT**0.5,
      jax.random.normal(outer, (24, 3 * SIZE**2)) / 24**0.5,
      jax.random.normal(discriminator, (3, 4)),
    )

  def sample(self, key, n, truncation=1.0):
    spread = jnp.linspace(0.5, 3.0, LATENT)[None]
    return 2.0 + truncation * spread * jax.random.normal(key, (n, LATENT))

  def image(self, w):
    return jnp.clip(jnp.tanh((w - 2.0) @ self.inner) @ self.outer, -1, 1).reshape(-1, SIZE, SIZE, 3)

  def features(self, image):
    small = image.reshape(image.shape[0], SIZE // 2, 2, SIZE // 2, 2, 3).mean((2, 4))
    return jnp.tanh(small @ self.discriminator), small


@pytest.fixture(scope="module")
def gan():
  return RandomGan.make(jax.random.key(0))


@pytest.fixture(scope="module")
def projector(gan):
  return Projector(gan, ProjectionConfig(steps=STEPS, noise=0.3))


@pytest.fixture(scope="module")
def pictures(gan):
  return np.asarray(gan.image(gan.sample(jax.random.key(5), 2)))


@pytest.fixture(scope="module")
def found(projector, pictures):
  told = []
  result = projector(pictures, progress=told.append)
  assert sum(told) == STEPS
  return result


def test_a_generator_s_own_pictures_are_found_again(gan, found, pictures):
  assert found.psnr.min() > 35
  assert found.latent.shape == (2, LATENT)
  # What is reported is of the very latents that are returned.
  np.testing.assert_allclose(found.image, gan.image(jnp.asarray(found.latent)), atol=1e-6)
  np.testing.assert_allclose(
    found.psnr, -10 * np.log10(np.mean((found.image - pictures) ** 2 / 4, (1, 2, 3))), rtol=1e-6
  )


def test_the_best_iterate_is_kept(gan, pictures):
  # Steps so large that most of them lead away.
  wild = Projector(gan, ProjectionConfig(steps=4, rate=4.0))
  found = wild(pictures)
  assert found.losses.shape == (4, 2)
  assert (found.losses.argmin(0) < 3).any()
  places = jnp.asarray(found.latent)[:, None], jnp.asarray(pictures)[:, None], jnp.ones((2, 1, SIZE, SIZE))
  again = jax.vmap(lambda *one: wild._objective(gan, *one))(*places)
  np.testing.assert_allclose(again, found.losses.min(0), rtol=1e-4)


def test_each_step_has_noise_of_its_own_that_fades(gan, pictures):
  """With a rate of 0 nothing moves, and the objective is that of the mean style and the noise."""
  steps, key = 12, jax.random.key(9)
  config = ProjectionConfig(steps=steps, rate=0.0, noise=0.3, features=0.0)
  found = Projector(gan, config)(pictures, key=key)
  styles = gan.sample(stream(jax.random.key(0), "deviation"), 4096)
  mean, deviation = styles.mean(0, keepdims=True), styles.std(0, keepdims=True)
  for step in range(steps):
    first, i = 10 * (step // 10), step % 10
    fade = max(0.0, 1 - step / steps / 0.75) ** 2
    noise = 0.3 * fade * jax.random.normal(stream(stream(key, "noise", first), "step", i), (1, LATENT))
    expected = np.abs(gan.image(mean + deviation * noise) - pictures).mean((1, 2, 3))
    np.testing.assert_allclose(found.losses[step], expected, rtol=1e-4)


def test_it_always_finds_the_same_and_each_photograph_for_itself(projector, found, pictures):
  again = projector(pictures)
  np.testing.assert_array_equal(again.latent, found.latent)
  beside = projector(np.stack([pictures[0], -pictures[0]]))
  np.testing.assert_allclose(beside.latent[0], found.latent[0], rtol=1e-4, atol=1e-4)
  other = projector(pictures, key=jax.random.key(9))
  assert not np.array_equal(other.latent, found.latent)


def test_nothing_outside_of_the_mask_counts(projector, pictures):
  masks = np.zeros((2, SIZE, SIZE), np.float32)
  masks[:, :, : SIZE // 2] = 1
  spoilt = pictures.copy()
  spoilt[:, :, SIZE // 2 :] = -0.9
  found, same = projector(spoilt, masks), projector(pictures, masks)
  np.testing.assert_array_equal(found.latent, same.latent)
  assert found.psnr.min() > 30
  np.testing.assert_allclose(found.psnr, masked_psnr(found.image, pictures, masks), rtol=1e-9)
  assert (masked_psnr(found.image, spoilt, np.ones_like(masks)) < 20).all()


def test_the_best_of_several_starts_goes_on(gan, pictures):
  config = ProjectionConfig(steps=20, starts=3, trial=0.5, noise=0.0)
  found = Projector(gan, config)(pictures)
  assert found.losses.shape == (20, 2)
  # Without noise the first row is the start itself: never worse than the mean style, with which one start begins.
  from_mean = Projector(gan, ProjectionConfig(steps=1, noise=0.0))(pictures)
  assert (found.losses[0] <= from_mean.losses[0] + 1e-6).all()
  assert (found.losses.min(0) < found.losses[0]).all()
  # Each goes on from where its best start was, not from another one's place.
  assert (found.losses[10] < 1.2 * found.losses[9]).all()


def test_photographs_of_another_size_are_refused(projector):
  with pytest.raises(ValueError, match="16 pixels given, the generator's 8 needed"):
    projector(np.zeros((1, 16, 16, 3)))
