"""The mapping network: its size, its start, and its formula."""

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.networks.mapping import MappingNetwork


def test_parameter_count_is_the_published_one(key):
  shapes = jax.eval_shape(MappingNetwork(out=2 * 9 * 256).init_params, key)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_381_632


def test_codes_are_a_leaky_perceptron_split_into_frequencies_then_phases(key, rng):
  network = MappingNetwork(out=10, latent_dim=6, hidden_dim=8, n_hidden=2)
  variables = network.init_params(key)
  latents = rng.standard_normal((2, 3, 6)).astype(np.float32)
  frequencies, phases = network.apply(variables, jnp.asarray(latents))
  x = latents
  for name in ("hidden_0", "hidden_1", "codes"):
    x = x @ np.asarray(variables["params"][name]["kernel"]) + np.asarray(variables["params"][name]["bias"])
    x = x if name == "codes" else np.where(x > 0, x, 0.2 * x)
  np.testing.assert_allclose(frequencies, x[..., :5], atol=1e-5)
  np.testing.assert_allclose(phases, x[..., 5:], atol=1e-5)


def test_kernels_start_kaiming_normal_and_the_last_a_quarter_of_it(key):
  params = MappingNetwork(out=256, n_hidden=1).init_params(key)["params"]
  deviation = np.sqrt(2 / (1 + 0.2**2) / 256)
  np.testing.assert_allclose(np.std(params["hidden_0"]["kernel"]), deviation, rtol=0.02)
  np.testing.assert_allclose(np.std(params["codes"]["kernel"]), deviation / 4, rtol=0.02)
  assert 0.9 / 16 < np.abs(params["codes"]["bias"]).max() <= 1 / 16


def test_a_traced_start_is_the_eager_start(key):
  network = MappingNetwork(out=6, latent_dim=3, hidden_dim=5, n_hidden=1)
  for a, b in zip(*map(jax.tree.leaves, (network.init_params(key), jax.jit(network.init_params)(key))), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
