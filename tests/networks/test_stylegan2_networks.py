"""The networks of StyleGAN2: what they are made of, against explicit sums."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks.equalised import EqualLinear, activate
from shapegan_jax.networks.stylegan2 import Generator, Mapping, ModulatedConv, Synthesis
from shapegan_jax.networks.stylegan2_discriminator import Discriminator, minibatch_stddev


@pytest.fixture(scope="module")
def generator():
  return Generator(Mapping(6, 3), Synthesis((4, 3), 6))


@pytest.fixture(scope="module")
def variables(generator):
  fresh = generator.init_params(jax.random.key(0))
  # Noise strengths begin at 0 and biases too: numbers of their own show more.
  keys = iter(jax.random.split(jax.random.key(1), 100))
  return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), fresh)


def test_a_layer_uses_its_weights_scaled(rng):
  layer = EqualLinear(9, 4, rate=0.01, bias=2.0)
  params = layer.init(jax.random.key(0), jnp.zeros((1, 9)))["params"]
  assert 50 < float(jnp.std(params["kernel"])) < 150  # N(0, 1) / rate
  x = rng.normal(size=(3, 9)).astype(np.float32)
  expected = x @ np.asarray(params["kernel"]) * 0.01 / 3 + 0.01 * 2.0
  np.testing.assert_allclose(layer.apply({"params": params}, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_the_activation_keeps_the_square_of_a_normal_number_and_is_clipped():
  x = jnp.array([[-5.0, 3.0, 400.0]])
  np.testing.assert_allclose(activate(x, jnp.zeros(3)), np.sqrt(2) * np.array([[-1.0, 3.0, 400.0]]), rtol=1e-6)
  np.testing.assert_allclose(activate(x, jnp.zeros(3), 256.0)[0, 2], 256.0)


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_is_that_with_each_pictures_own_kernel(demodulate, rng):
  conv = ModulatedConv(3, 5, 3, 4, demodulate=demodulate)
  x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 6, 6, 3), (2, 4)))
  params = conv.init(jax.random.key(0), x, w)["params"]
  style = np.asarray(w) @ np.asarray(params["style"]["kernel"]) / 2 + 1  # bias 1, sqrt(fan in) = 2
  ours = conv.apply({"params": params}, x, w)
  for i in range(2):
    kernel = np.asarray(params["kernel"]) / np.sqrt(27) * style[i][:, None]
    if demodulate:
      kernel /= np.sqrt(np.sum(kernel**2, (0, 1, 2)) + 1e-8)
    expected = jax.lax.conv_general_dilated(
      x[i : i + 1], jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours[i : i + 1], expected, rtol=1e-4, atol=1e-4)


def test_the_mapping_is_a_list_that_begins_with_the_normalisation(generator, variables, rng):
  def run(x, *part):
    return generator.apply(variables, jnp.asarray(x, jnp.float32), *part, method="map")

  z = rng.normal(size=(2, 6))
  np.testing.assert_allclose(run(3 * z), run(z), atol=1e-5)
  normal = run(z, 0, 1)
  np.testing.assert_allclose(jnp.mean(normal**2, -1), 1.0, rtol=1e-5)
  np.testing.assert_allclose(run(run(z, 0, 2), 2), run(z), atol=1e-6)
  assert not np.allclose(run(3 * z, 1), run(z, 1), atol=1e-3), "what follows the normalisation sees the length"


def test_a_style_for_every_place_is_one_style_for_all(generator, variables, rng):
  synthesis = generator.synthesis
  assert (synthesis.resolution, synthesis.styles, synthesis.noise_sizes) == (8, 4, (4, 8, 8))
  w = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  synthesize = jax.jit(functools.partial(generator.apply, method="synthesize"))
  one = synthesize(variables, w)
  assert one.shape == (2, 8, 8, 3)
  many = np.repeat(np.asarray(w)[:, None], 4, 1)
  np.testing.assert_allclose(synthesize(variables, jnp.asarray(many)), one, atol=1e-5)
  for place in range(4):  # each place has a say
    other = many.copy()
    other[:, place] += 1
    other = synthesize(variables, jnp.asarray(other))
    assert float(jnp.abs(other - one).max()) > 1e-3, place


def test_noise_changes_the_picture_by_its_strength(generator, variables, rng):
  w = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  noise = [jnp.asarray(rng.normal(size=(1, size, size)), jnp.float32) for size in (4, 8, 8)]
  still = jax.tree.map(lambda x: x, variables)  # a copy of the dictionaries
  for name in ("convs_0", "ups_0", "convs_1"):
    still["params"]["synthesis"][name]["noise_strength"] = jnp.zeros(())
  synthesize = jax.jit(functools.partial(generator.apply, method="synthesize"))
  without = synthesize(variables, w)
  np.testing.assert_allclose(synthesize(still, w, noise), without, atol=1e-5)
  zeros = [0 * x for x in noise]
  for i in range(3):
    only = [*zeros[:i], noise[i], *zeros[i + 1 :]]
    assert float(jnp.abs(synthesize(variables, w, only) - without).max()) > 1e-3, i


def test_groups_vary_by_their_deviation(rng):
  x = rng.normal(size=(6, 2, 2, 3)).astype(np.float32)
  answer = np.asarray(minibatch_stddev(jnp.asarray(x), 3))
  np.testing.assert_array_equal(answer[..., :3], x)
  for j in range(2):  # groups {0, 2, 4} and {1, 3, 5}
    expected = np.mean(np.sqrt(np.var(x[j::2], axis=0) + 1e-8))
    np.testing.assert_allclose(answer[j::2, ..., 3], expected, rtol=1e-5)
  alike = minibatch_stddev(jnp.tile(jnp.asarray(x[:1]), (2, 1, 1, 1)), 4)
  np.testing.assert_allclose(alike[..., 3], 1e-4, rtol=1e-4)


def test_features_are_those_on_the_way_to_the_logit(rng):
  discriminator = Discriminator((5, 4, 3), group=2)
  variables = discriminator.init_params(jax.random.key(0))
  image = jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
  assert jax.eval_shape(discriminator.apply, variables, image).shape == (2,)
  look = jax.jit(functools.partial(discriminator.apply, method="features"), static_argnums=2)
  features = look(variables, image)
  assert [x.shape for x in features] == [(2, 8, 8, 4), (2, 4, 4, 5)]
  (first,) = look(variables, image, 1)
  np.testing.assert_allclose(first, features[0], atol=1e-6)
  larger = jax.eval_shape(look, variables, jnp.zeros((1, 32, 32, 3)))
  assert [x.shape for x in larger] == [(1, 16, 16, 4), (1, 8, 8, 5)]
