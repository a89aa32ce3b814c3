"""StyleGAN2's training: penalties against differences and closed forms, laziness, mixing, averages, the frozen view."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, stylegan2
from shapegan_jax.errors import UserError
from shapegan_jax.evaluation.health import shape_report
from shapegan_jax.evaluation.preview import preview
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.methods.stylegan2.lazy_updates import Descent, lazy_adam
from shapegan_jax.methods.stylegan2.sampling import StyleSampler
from shapegan_jax.methods.stylegan2.settings import Averages
from shapegan_jax.model import Model
from shapegan_jax.objectives import adversarial as losses
from shapegan_jax.objectives.path_length import path_lengths, path_penalty


@pytest.fixture(scope="module")
def method():
  return build(common.shrink(stylegan2.get_config("smoke")).to_dict())


@pytest.fixture(scope="module")
def state(method):
  return jax.jit(method.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def params(method, state):
  """Exported, with biases and noise strengths that are not 0 and a mean style of its own."""
  exported = method.params_of(state)
  leaves, structure = jax.tree.flatten(exported)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return structure.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@pytest.fixture(scope="module")
def gan(method, params):
  return FrozenGan.of(SimpleNamespace(method=method, params=params))


def test_lengths_of_a_linear_generator_are_those_of_its_matrix(rng):
  matrix = jnp.asarray(rng.normal(size=(4 * 2 * 3, 5)), jnp.float32)

  def synthesize(w):  # the sum of the styles, through a matrix
    return (w.sum(1) @ matrix.T).reshape(-1, 4, 2, 3)

  w, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 5), (2, 4, 2, 3)))
  expected = np.linalg.norm(np.asarray(y).reshape(2, -1) @ np.asarray(matrix), axis=-1) / np.sqrt(8)
  np.testing.assert_allclose(path_lengths(synthesize, w, y), expected, rtol=1e-5)


def test_the_penalty_is_the_deviation_from_a_running_mean():
  penalty, mean = path_penalty(jnp.array([1.0, 3.0]), jnp.array(0.0), decay=0.25)
  assert float(mean) == 0.5
  np.testing.assert_allclose(penalty, (0.25 + 6.25) / 2)


def slope(function, params, rng):
  """(finite difference, what the gradient says) of a scalar function along a random direction.

  In double precision: a slope of a leaky ReLU's network jumps wherever a unit changes sign, so the steps must be small.
  """
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
  gradient = jax.jit(jax.grad(function))(params)
  told = sum(np.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
  ahead, behind = (jax.tree.map(lambda p, d: p + h * d, params, direction) for h in (1e-7, -1e-7))  # noqa: B023
  evaluate = jax.jit(function)
  return (float(evaluate(ahead)) - float(evaluate(behind))) / 2e-7, told


def test_gradients_of_the_penalties_are_those_of_differences(method, params, rng):
  with jax.enable_x64(True):
    image = jnp.asarray(rng.uniform(-1, 1, (4, 8, 8, 3)))

    def r1(discriminator):
      return losses.logits_and_penalty(
        lambda x: (method.discriminator.apply({"params": discriminator}, x), None), image
      )[1].mean()

    difference, told = slope(r1, params["discriminator"], rng)
    np.testing.assert_allclose(difference, told, rtol=1e-4)
    sampler = StyleSampler(method.generator, 0.9)

    def lengths(generator):
      return jnp.mean(sampler.path_lengths(generator, jax.random.key(2), 2) ** 2)

    difference, told = slope(lengths, {name: params[name] for name in ("mapping", "synthesis")}, rng)
    np.testing.assert_allclose(difference, told, rtol=1e-4)


def test_an_update_that_is_not_due_changes_nothing():
  adam, factor = lazy_adam(0.0, 0.99, 4)
  assert factor == 4 / 5
  assert lazy_adam(0.0, 0.99, 0)[1] == 1.0
  descent = Descent(adam, factor, jnp.float32(0.1))
  params = {"x": jnp.array([1.0, -2.0])}
  opt = adam.init(params)

  def loss(params):
    return jnp.sum(params["x"] ** 2), jnp.float32(7.0)

  run = jax.jit(lambda due: descent.step_if(due, loss, params, opt, jnp.float32(3.0)))
  after, moments, value, aux = run(False)
  for a, b in zip(jax.tree.leaves((after, moments)), jax.tree.leaves((params, opt)), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (float(value), float(aux)) == (0.0, 3.0)
  after, moments, value, aux = run(True)
  # Adam's first step is the rate itself, whatever the gradient.
  np.testing.assert_allclose(after["x"], params["x"] - 0.08 * jnp.sign(params["x"]), rtol=1e-5)
  assert (float(value), float(aux), int(moments.count)) == (5.0, 7.0, 1)


def test_mixed_pictures_change_their_style_once(method, state):
  for mixing, changes in ((0.0, {0}), (1.0, {1})):
    sampler = StyleSampler(method.generator, mixing)
    w = np.asarray(sampler.styles(state.gen_params, jax.random.key(3), 32))
    assert w.shape == (32, 4, 8)
    assert set((np.abs(np.diff(w, axis=1)).max(-1) > 1e-6).sum(1)) == changes
  places = {int(np.argmax(row)) for row in np.abs(np.diff(w, axis=1)).max(-1) > 1e-6}
  assert places == {0, 1, 2}


def test_the_average_forgets_half_in_its_half_life():
  averages = Averages(half_life=1000, ramp=0.05)
  np.testing.assert_allclose(averages.decay(10, 10**6) ** 100, 0.5)
  np.testing.assert_allclose(averages.decay(10, 4000) ** 20, 0.5)  # early: half of it in a twentieth of what was seen
  assert averages.decay(10, 0) == 0.0
  assert dataclasses.replace(averages, ramp=0.0).decay(10, 0) == averages.decay(10, 10**6)


def test_the_plan_tells_rates_and_decay(method):
  config = stylegan2.get_config("heads")
  run = build(config.to_dict())
  assert len(run.stages) > 1
  for (step, stage), rate in zip(run.stages, config.stages.generator_rate, strict=True):
    planned, anneals = run.plan(step)
    assert planned == stage
    assert anneals["generator_rate"] == rate
    assert anneals["decay"] == run.averages.decay(stage.batch_size, stage.batch_size * step)


def test_truncation_draws_styles_to_their_mean(gan, params):
  z = jax.random.normal(jax.random.key(4), (3, 8))
  whole, half, none = (gan.styles(z, truncation=psi) for psi in (1.0, 0.5, 0.0))
  np.testing.assert_allclose(none, jnp.tile(params["w_mean"][None], (3, 1)), atol=1e-6)
  np.testing.assert_allclose(half, (whole + none) / 2, atol=1e-6)
  np.testing.assert_array_equal(gan.sample(jax.random.key(4), 3), whole)
  assert (gan.resolution, gan.latent_size) == (8, 8)


def test_an_offset_of_zero_moves_nothing_and_runs_through_the_last_layers(gan, method):
  o = jax.random.normal(jax.random.key(5), (3, 8))
  layers = method.generator.mapping.layers
  for depth in range(layers + 1):
    np.testing.assert_allclose(gan.offset(jnp.zeros((1, 8)), depth), 0.0, atol=1e-6)
    head = gan._map(jnp.zeros((1, 8)), 0, layers - depth)
    expected = gan._map(o + head, layers - depth) - gan._map(jnp.zeros((1, 8)))
    np.testing.assert_allclose(gan.offset(o, depth), expected, atol=1e-6)
  # The published counting: depth 0 still runs one linear layer; with all layers the normalisation comes as well.
  one = gan._map(o + gan._map(jnp.zeros((1, 8)), 0, layers), layers) - gan._map(jnp.zeros((1, 8)))
  np.testing.assert_allclose(gan.offset(o, 0), one, atol=1e-6)
  np.testing.assert_allclose(gan.offset(o, -1), o, atol=1e-6)
  np.testing.assert_allclose(gan.offset(2 * o, layers), gan.offset(o, layers), atol=1e-5)


def test_pictures_are_clipped_and_always_the_same(gan, method, params):
  w = 4 * gan.sample(jax.random.key(6), 2)
  draw = jax.jit(lambda gan, w: gan.image(w))
  image = draw(gan, w)
  assert float(jnp.abs(image).max()) <= 1
  other = dataclasses.replace(gan, params={**params, "noise": jax.tree.map(jnp.negative, params["noise"])})
  assert float(jnp.abs(draw(other, w) - image).max()) > 1e-3, "the stored noise is in the picture"
  assert [f.shape for f in jax.eval_shape(gan.features, image)] == [(2, 4, 4, 8)]
  model = Model(method, params, {})
  latents = model.sample_latents(2)
  rgb = model.render(latents, resolution=8).rgb
  np.testing.assert_allclose(2 * rgb - 1, draw(gan, gan.styles(latents)), atol=1e-5)
  np.testing.assert_allclose(model.render(model.codes(latents), resolution=8).rgb, rgb, atol=1e-5)
  assert model.render(latents, resolution=4).rgb.shape == (2, 4, 4, 3)


def test_what_needs_a_shape_is_left_out(method, params):
  model = Model(method, params, {})
  assert not method.has_shape
  assert shape_report(model, samples=2) == {}
  picture = preview(model, count=2, resolution=8)
  assert picture.shape[0] == 4 * (64 + 2)  # the picture and three truncations
  with pytest.raises(UserError, match="no shape"):
    model.query(model.sample_latents(1), jnp.zeros((1, 1, 3)))


@pytest.mark.parametrize(
  ("section", "values", "message"),
  [
    ("discriminator", {"channels": (8, 8, 8)}, "disagree"),
    ("stages", {"batch_size": (6,)}, "groups"),
    ("augment", {"shfit": 1}, "config.augment.shfit"),
  ],
)
def test_settings_that_do_not_fit_are_named(section, values, message):
  config = common.shrink(stylegan2.get_config("smoke")).to_dict()
  config[section].update(values)
  with pytest.raises(UserError, match=message):
    build(config)


def test_a_model_without_discriminator_serves_pictures_only(method, params):
  alone = {name: value for name, value in params.items() if name != "discriminator"}
  with pytest.raises(UserError, match="without its discriminator"):
    FrozenGan.of(SimpleNamespace(method=method, params=alone))
  with pytest.raises(UserError, match="another method"):
    FrozenGan.of(SimpleNamespace(method=object(), params=alone))
