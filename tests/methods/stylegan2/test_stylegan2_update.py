"""Steps of StyleGAN2's training: what is due when, what moves, and one with all its streams written out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, stylegan2
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.stylegan2.augmentation import augmented, shifted
from shapegan_jax.methods.stylegan2.sampling import StyleSampler
from shapegan_jax.rng import stream

RATES = {"generator_rate": 0.002, "discriminator_rate": 0.005, "decay": 0.7}


@pytest.fixture(scope="module")
def stepped():
  """(method, key, pictures, (state before, state after, metrics) of five steps), with every other picture changed."""
  config = common.shrink(stylegan2.get_config("smoke"))
  config.augment.update(adaptive=True, shift=0.25, target=0.6, images=1000)
  config.objectives.update(mixing=0.5, r1=3.0, path=1.5, path_decay=0.2)
  config.averages.style_decay = 0.9
  method, key = build(config.to_dict()), jax.random.key(7)
  state = jax.jit(method.init)(jax.random.key(0))
  # Means of their own, so that it can be told which is moved by what.
  average = jax.tree.map(lambda x: x + 0.1, state.ema_params)
  augment = dataclasses.replace(state.augment, probability=jnp.float32(0.5), real_sign=jnp.float32(0.6))
  state = dataclasses.replace(
    state, ema_params=average, w_mean=state.w_mean + 0.3, path_mean=jnp.float32(0.2), augment=augment
  )
  update = jax.jit(method.update, static_argnames="stage")
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)), jnp.float32)
  anneals, steps = {name: jnp.float32(value) for name, value in RATES.items()}, []
  # Logits of both signs, or the reals' could not be told from the fakes'.
  _, metrics = update(state, {"image": image}, key, anneals, stage=method.plan(0)[0])
  last = state.disc_params["logit"]
  bias = last["bias"] - (metrics["disc/real_logits"] + metrics["disc/fake_logits"]) / 2
  state = dataclasses.replace(state, disc_params={**state.disc_params, "logit": {**last, "bias": bias}})
  for step in range(5):
    after, metrics = update(state, {"image": image}, key, anneals, stage=method.plan(step)[0])
    steps.append((state, after, metrics))
    state = after
  return method, key, image, steps


def test_penalties_come_when_they_are_due_and_everything_moves(stepped):
  *_, steps = stepped
  seen = []
  for _, after, metrics in steps:
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    counts = (int(after.disc_opt.count), int(after.gen_opt.count))
    seen.append((float(metrics["disc/r1"]) > 0, float(metrics["gen/path"]) > 0, *counts))
  assert seen == [
    (True, True, 2, 2), (False, False, 3, 3), (False, False, 4, 4), (False, False, 5, 5), (False, True, 6, 7)
  ]  # fmt: skip
  first, last = steps[0][0], steps[-1][1]
  for name in ("gen_params", "disc_params", "ema_params", "w_mean", "path_mean"):
    for a, b in zip(*(jax.tree.leaves(getattr(s, name)) for s in (first, last)), strict=True):
      assert (a != b).any(), name
  for a, b in zip(jax.tree.leaves(first.noise), jax.tree.leaves(last.noise), strict=True):
    np.testing.assert_array_equal(a, b)


def softplus(x):
  return jnp.log(1 + jnp.exp(x))


class WrittenOut:
  """The losses of a step, of whichever parameters, and what they are made of."""

  def __init__(self, method, key, image, state):
    draw, n, p = StyleSampler(method.generator, 0.5), 4, state.augment.probability
    keys = {
      name: stream(key, name, state.step)
      for name in ("discriminator", "generator", "path", "shift", "augment_real", "augment_fake", "augment_generator")
    }
    self.real = augmented(shifted(image, keys["shift"], 0.25), keys["augment_real"], p)
    self.fake = augmented(draw.images(state.gen_params, keys["discriminator"], n)[0], keys["augment_fake"], p)
    self.method, self.draw, self.keys, self.p, self.path_mean = method, draw, keys, p, state.path_mean

  def ask(self, disc, image):
    return self.method.discriminator.apply({"params": disc}, image)

  def discriminator(self, disc):
    return jnp.mean(softplus(self.ask(disc, self.fake))) + jnp.mean(softplus(-self.ask(disc, self.real)))

  def r1(self, disc):
    slopes = jax.grad(lambda image: jnp.sum(self.ask(disc, image)))(self.real)  # a group's logits are of its pictures
    return 16 * 3.0 / 2 * jnp.mean(jnp.sum(slopes**2, (1, 2, 3)))

  def generator(self, gen, disc):
    image = self.draw.images(gen, self.keys["generator"], 4)[0]
    return jnp.mean(softplus(-self.ask(disc, augmented(image, self.keys["augment_generator"], self.p))))

  def path(self, gen):
    lengths = self.draw.path_lengths(gen, self.keys["path"], 2)
    return 4 * 1.5 * jnp.mean((lengths - self.path_average(lengths)) ** 2)

  def path_average(self, lengths):
    return 0.8 * self.path_mean + 0.2 * jnp.mean(lengths)


def adam(params, grads, squares, n, *, every, rate):
  """(parameters, squares) after update n: no momentum, and both decay and rate are of every + 1 updates in `every`."""
  c = every / (every + 1)
  squares = jax.tree.map(lambda s, g: 0.99**c * s + (1 - 0.99**c) * g**2, squares, grads)
  step = jax.tree.map(lambda g, s: g / (jnp.sqrt(s / (1 - 0.99 ** (c * n))) + 1e-8), grads, squares)
  return jax.tree.map(lambda p, u: p - c * rate * u, params, step), squares


def assert_near(found, expected, share):
  """Each array within this share of its largest number."""
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=share * float(jnp.abs(b).max()) + 1e-7)


@pytest.mark.parametrize("step", [0, 1])
def test_a_step_is_its_losses_and_streams_written_out(stepped, step):
  method, key, image, steps = stepped
  before, after, metrics = steps[step]
  due = step == 0

  @jax.jit
  def written(before):
    of = WrittenOut(method, key, image, before)
    disc, squares, n = before.disc_params, before.disc_opt.nu, 1 if due else 3
    losses, grads = {}, {}
    losses["disc/discriminator"], grads["disc"] = jax.value_and_grad(of.discriminator)(disc)
    settings = {"every": 16, "rate": RATES["discriminator_rate"]}
    disc, squares = adam(disc, grads["disc"], squares, n, **settings)
    if due:
      losses["disc/r1"], grads["disc"] = jax.value_and_grad(of.r1)(disc)
      disc, squares = adam(disc, grads["disc"], squares, n + 1, **settings)
    gen, gen_squares = before.gen_params, before.gen_opt.nu
    losses["gen/generator"], grads["gen"] = jax.value_and_grad(of.generator)(gen, disc)
    settings = {"every": 4, "rate": RATES["generator_rate"]}
    gen, gen_squares = adam(gen, grads["gen"], gen_squares, n, **settings)
    if due:
      losses["gen/path"], grads["gen"] = jax.value_and_grad(of.path)(gen)
      lengths = of.draw.path_lengths(gen, of.keys["path"], 2)
      losses["gen/path_length"] = of.path_average(lengths)
      gen, gen_squares = adam(gen, grads["gen"], gen_squares, n + 1, **settings)
    w = of.draw.images(before.gen_params, of.keys["generator"], 4)[1]
    signs = [jnp.mean(jnp.sign(of.ask(before.disc_params, image))) for image in (of.real, of.fake)]
    return losses, grads, (disc, gen, squares, gen_squares), w, signs

  losses, grads, (disc, gen, squares, gen_squares), w, (real_sign, fake_sign) = written(before)
  for name, value in losses.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
  # Without momentum the first moment is the last gradient.
  assert_near((after.disc_opt.mu, after.gen_opt.mu), (grads["disc"], grads["gen"]), 0.01)
  assert_near((after.disc_opt.nu, after.gen_opt.nu), (squares, gen_squares), 0.02)
  moved = [
    jax.tree.map(jnp.subtract, new, old)
    for new, old in (
      (after.disc_params, before.disc_params),
      (disc, before.disc_params),
      (after.gen_params, before.gen_params),
      (gen, before.gen_params),
    )
  ]
  for ours, theirs in (moved[:2], moved[2:]):
    ours, theirs = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (ours, theirs))
    # A gradient of nearly 0 has a step of either sign.
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
  # The averages follow the new generator, and the styles that it drew to learn from.
  expected = jax.tree.map(lambda old, new: 0.7 * old + 0.3 * new, before.ema_params, after.gen_params)
  assert_near(after.ema_params, expected, 1e-5)
  np.testing.assert_allclose(after.w_mean, 0.9 * before.w_mean + 0.1 * w.mean((0, 1)), atol=1e-5)
  np.testing.assert_allclose(metrics["disc/real_sign"], real_sign, atol=1e-6)
  assert real_sign != fake_sign or not due
  sign = before.augment.real_sign + 4 / 256 * (real_sign - before.augment.real_sign)
  np.testing.assert_allclose(after.augment.real_sign, sign, rtol=1e-5)
  probability = before.augment.probability + 4 / 1000 * np.sign(sign - 0.6)
  np.testing.assert_allclose(after.augment.probability, probability, rtol=1e-5)


def test_what_is_exported_is_the_average_with_its_mean_style_and_noise(stepped):
  method, *_, steps = stepped
  state = steps[-1][1]
  exported = method.params_of(state)
  assert set(exported) == {"mapping", "synthesis", "w_mean", "noise", "discriminator"}
  for name in ("mapping", "synthesis"):
    jax.tree.map(np.testing.assert_array_equal, exported[name], state.ema_params[name])
    jax.tree.map(np.testing.assert_array_equal, method.params_of(state, ema=False)[name], state.gen_params[name])
  jax.tree.map(np.testing.assert_array_equal, exported["discriminator"], state.disc_params)
  np.testing.assert_array_equal(exported["w_mean"], state.w_mean)
