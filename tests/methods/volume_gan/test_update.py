"""One update of the adversarial engine against the same step written out: order, losses, clipping, Adam, averages."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.methods.volume_gan.engine import AdversarialMethod, Fakes
from shapegan_jax.methods.volume_gan.settings import Averages, GanStage, Objectives, Optimizers, StageTable
from shapegan_jax.objectives.adversarial import LOSSES
from shapegan_jax.rng import stream
from shapegan_jax.types import DiscriminatorOutput

STAGE = GanStage(resolution=2, batch_size=6, samples=1, topk_group=3, gradient_scale=2.0)
RATES = {"generator_rate": 0.02, "discriminator_rate": 0.05}
ANNEALS = {name: jnp.float32(value) for name, value in ({"fade": 0.7, "topk": 0.5} | RATES).items()}
GOALS = Objectives(r1=0.8, pose=1.5, latent=0.6)
PAIRED = dataclasses.replace(GOALS, loss="relativistic", r2=0.4, topk_share=1.0)
# After one update the warm-up decides both averages, after two only the slow one.
AVERAGES = Averages(decay=0.19, slow_decay=0.9)
CLIP, DISCRIMINATOR_CLIP = 0.3, 0.2


class Discriminator(nn.Module):
  """One hidden layer, so that the gradient penalty has a gradient of its own."""

  @nn.compact
  def __call__(self, image, fade, *, fading=True):
    x = nn.Dense(5)(fade * image.reshape(image.shape[0], -1))
    answer = nn.Dense(1 + 4 + 2)(jnp.tanh(x))
    return DiscriminatorOutput(logit=answer[:, 0], latent=answer[:, 1:5], pose=answer[:, 5:])

  def init_params(self, key):
    return self.init(key, jnp.zeros((1, 2, 2, 3)), 1.0)


def dimmed(image, key):
  return image * jax.random.uniform(key, (len(image), 1, 1, 1))


@dataclasses.dataclass(frozen=True)
class Toy(AdversarialMethod):
  """Pictures that are linear in the latent, squashed."""

  def init_generator(self, key):
    return {"w": jax.random.normal(key, (4, 12))}

  def generate(self, gen_params, key, anneals, *, stage):
    latents = jax.random.normal(key, (stage.batch_size, 4))
    image = jnp.tanh(latents @ gen_params["w"]).reshape(-1, 2, 2, 3)
    return Fakes(image=image, latents=latents, pose=latents[:, :2] + image[:, 0, 0, :2])

  def real_images(self, image, key, anneals, *, stage):
    """As GRAF's, random: here dimmed."""
    return dimmed(image, key)

  def extra_losses(self, gen_params, fakes):
    return {"size": 0.3 * jnp.mean(fakes.image**2)}


def norm(grads):
  return float(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))))


def descend(params, grads, squares, n, *, clip, rate):
  """(params, squares) after Adam's n-th step with b1 = 0, b2 = 0.9 on the clipped gradient."""
  assert norm(grads) > clip, "the test must clip"
  grads = jax.tree.map(lambda g: g * clip / norm(grads), grads)
  squares = jax.tree.map(lambda s, g: 0.9 * s + 0.1 * g**2, squares, grads)
  step = jax.tree.map(lambda g, s: g / (np.sqrt(s / (1 - 0.9**n)) + 1e-8), grads, squares)
  return jax.tree.map(lambda p, u: p - rate * u, params, step), squares


def softplus(x):
  return jnp.log(1 + jnp.exp(x))


def identity_penalty(answer, fakes):
  pose, latent = (jnp.mean((a - b) ** 2) for a, b in ((answer.pose, fakes.pose), (answer.latent, fakes.latents)))
  return 1.5 * pose + 0.6 * latent


def discriminator_loss(params, discriminator, real, fakes, paired=False):
  def ask(image):
    return discriminator.apply({"params": params}, image, 0.7)

  def penalty_of(images):
    slopes = jax.vmap(jax.grad(lambda image: ask(image[None]).logit[0]))(images)
    return jnp.mean(jnp.sum(slopes**2, (1, 2, 3))) / 2

  penalty = 0.8 * penalty_of(real)
  answer = ask(fakes.image)
  if paired:
    adversarial = jnp.mean(softplus(answer.logit - ask(real).logit))
    return adversarial + penalty + 0.4 * penalty_of(fakes.image) + identity_penalty(answer, fakes)
  adversarial = jnp.mean(softplus(answer.logit)) + jnp.mean(softplus(-ask(real).logit))
  return adversarial + penalty + identity_penalty(answer, fakes)


def generator_loss(params, method, disc_params, key):
  fakes = method.generate(params, key, ANNEALS, stage=STAGE)
  answer = method.discriminator.apply({"params": disc_params}, fakes.image, 0.7)
  # Of each three fakes the two that look most real count, which are those with the smaller losses.
  best = jnp.sort(softplus(-answer.logit).reshape(2, 3))[:, :2]
  return jnp.mean(best) + identity_penalty(answer, fakes) + 0.3 * jnp.mean(fakes.image**2)


@pytest.mark.parametrize("shared", [False, True])
def test_two_updates_are_the_published_steps_written_out(shared):
  goals = dataclasses.replace(GOALS, shared_fakes=shared)
  optimizers = Optimizers(clip=CLIP, discriminator_clip=DISCRIMINATOR_CLIP)
  table = StageTable()
  method = Toy(Discriminator(), table, table.expand(), goals, optimizers, AVERAGES, LOSSES[goals.loss])
  key, state = jax.random.key(3), method.init(jax.random.key(0))
  images = np.random.default_rng(0).uniform(-1, 1, (2, 6, 2, 2, 3)).astype(np.float32)

  gen, disc = state.gen_params, state.disc_params
  gen_squares, disc_squares = (jax.tree.map(jnp.zeros_like, tree) for tree in (gen, disc))
  # Both begin as the generator; here elsewhere, so that neither can stand for the other.
  for tree in (state.ema_params, state.ema_slow_params):
    jax.tree.map(np.testing.assert_array_equal, tree, gen)
  average, slow = (jax.tree.map(lambda x, by=by: x + by, gen) for by in (0.2, -0.1))
  state = dataclasses.replace(state, ema_params=average, ema_slow_params=slow)
  for n, image in enumerate(images, 1):
    state, metrics = method.update(state, {"image": jnp.asarray(image)}, key, ANNEALS, stage=STAGE)

    gen_key, before = stream(key, "generator", n - 1), disc
    fakes_key = gen_key if shared else stream(key, "discriminator", n - 1)
    fakes, real = method.generate(gen, fakes_key, ANNEALS, stage=STAGE), dimmed(image, stream(key, "real", n - 1))
    loss, grads = jax.value_and_grad(discriminator_loss)(disc, method.discriminator, real, fakes)
    np.testing.assert_allclose(metrics["disc/gradient_norm"], norm(grads), rtol=1e-4)
    settings = {"clip": DISCRIMINATOR_CLIP, "rate": RATES["discriminator_rate"]}
    disc, disc_squares = descend(disc, grads, disc_squares, n, **settings)
    np.testing.assert_allclose(
      sum(metrics[f"disc/{name}"] for name in ("discriminator", "r1", "pose", "latent")), loss, rtol=1e-5
    )
    # Shared fakes are judged by the discriminator that they teach, fresh ones by the one that has learnt.
    loss, grads = jax.value_and_grad(generator_loss)(gen, method, before if shared else disc, gen_key)
    grads = jax.tree.map(lambda g: 2.0 * g, grads)
    gen, gen_squares = descend(gen, grads, gen_squares, n, clip=CLIP, rate=RATES["generator_rate"])
    np.testing.assert_allclose(
      sum(metrics[f"gen/{name}"] for name in ("generator", "size", "pose", "latent")), loss, rtol=1e-5
    )
    warm = (1 + n) / (10 + n)
    average, slow = (
      jax.tree.map(lambda a, p, d=min(d, warm): d * a + (1 - d) * p, old, gen)
      for old, d in ((average, 0.19), (slow, 0.9))
    )
    found = (state.gen_params, state.disc_params, state.ema_params, state.ema_slow_params)
    for ours, theirs in zip(map(jax.tree.leaves, found), map(jax.tree.leaves, (gen, disc, average, slow)), strict=True):
      for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    # What is evaluated, exported and shipped is the published average, with decay .999, not the slow one.
    for name, expected in ((True, average), (False, gen)):
      np.testing.assert_allclose(method.params_of(state, ema=name)["w"], expected["w"], atol=2e-5)
    assert np.abs(average["w"] - slow["w"]).max() > 1e-3 or n == 1, "the two averages differ"
    assert int(state.step) == n


def test_a_paired_update_compares_with_the_real_batch_and_penalises_both_sides():
  """R3GAN's step: both losses see real i beside fake i, and R2 is R1 on the fakes."""
  table = StageTable()
  optimizers = Optimizers(clip=0.0, discriminator_clip=0.0)
  method = Toy(Discriminator(), table, table.expand(), PAIRED, optimizers, AVERAGES, LOSSES[PAIRED.loss])
  key, state = jax.random.key(3), method.init(jax.random.key(0))
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 2, 2, 3)), jnp.float32)
  anneals = ANNEALS | {"topk": jnp.float32(1.0)}
  after, metrics = method.update(state, {"image": image}, key, anneals, stage=STAGE)
  real = dimmed(image, stream(key, "real", 0))

  fakes = method.generate(state.gen_params, stream(key, "discriminator", 0), anneals, stage=STAGE)
  loss = discriminator_loss(state.disc_params, method.discriminator, real, fakes, paired=True)
  parts = ("discriminator", "r1", "r2", "pose", "latent")
  np.testing.assert_allclose(sum(metrics[f"disc/{name}"] for name in parts), loss, rtol=1e-5)
  fakes = method.generate(state.gen_params, stream(key, "generator", 0), anneals, stage=STAGE)
  ask = lambda image: method.discriminator.apply({"params": after.disc_params}, image, 0.7).logit  # noqa: E731
  np.testing.assert_allclose(metrics["gen/generator"], jnp.mean(softplus(ask(real) - ask(fakes.image))), rtol=1e-5)
