"""InceptionV3 of the FID: its size, its odd pooling against loops, and the published network on random weights."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.convert.inception import inception_params, inception_slots
from shapegan_jax.networks.features.inception import (
  average_pool,
  convolution_shapes,
  inception_features,
  inception_input,
  inception_probabilities,
  max_pool,
)

GOLDEN = Path(__file__).parents[2] / "goldens" / "inception_random.npz"


def random_tensors(state):
  """Every tensor of the file in the order of the names, as they were drawn when the golden numbers were made."""
  tensors = {}
  for name, shape in sorted((slot.name, slot.shape) for slot in inception_slots()):
    values = state.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
      values = 0.5 + values * values
    elif name.endswith("bn.weight"):
      values = 1 + 0.2 * values
    elif name.endswith("conv.weight"):
      values = values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    else:
      values = 0.1 * values
    tensors[name] = values.astype(np.float32)
  return tensors


def test_features_and_logits_are_those_of_the_published_network_with_the_same_random_weights():
  """The numbers are those of pytorch-fid's network, in PyTorch 2.13."""
  state, golden = np.random.RandomState(0), np.load(GOLDEN)
  params = inception_params(random_tensors(state))
  images = (2 * state.rand(1, 80, 96, 3) - 1).astype(np.float32)
  features = jax.jit(inception_features)(params, jnp.asarray(images))
  np.testing.assert_allclose(features, golden["features"], atol=2e-5 * np.abs(golden["features"]).max())
  logits = np.asarray(features) @ params["fc"]["kernel"] + params["fc"]["bias"]
  np.testing.assert_allclose(logits, golden["logits"], atol=2e-5 * np.abs(golden["logits"]).max())
  # The score's classifier leaves the bias out.
  unbiased = np.exp(golden["logits"] - params["fc"]["bias"])
  expected = unbiased / unbiased.sum(-1, keepdims=True)
  np.testing.assert_allclose(inception_probabilities(params, features), expected, rtol=1e-2, atol=1e-7)


def test_it_has_as_many_convolutions_and_parameters_as_the_published_network():
  shapes = convolution_shapes()
  assert len(shapes) == 94
  learned = [slot for slot in inception_slots() if "running" not in slot.name]
  # torchvision's network of 1000 classes has 23,834,568 without its auxiliary classifier; here are 1008.
  assert sum(math.prod(slot.shape) for slot in learned) == 23_834_568 + 8 * (2048 + 1)
  assert shapes["Mixed_6c.branch7x7dbl_2"] == (7, 1, 160, 160)
  assert shapes["Mixed_7c.branch_pool"] == (1, 1, 2048, 192)


@pytest.mark.parametrize(
  ("pool", "reduce"),
  [(average_pool, np.mean), (lambda x: max_pool(x, stride=1, padding="SAME"), np.max)],
  ids=["average", "maximum"],
)
def test_pools_keep_the_size_and_see_only_the_picture_at_its_border(pool, reduce, rng):
  x = rng.standard_normal((1, 4, 5, 2)).astype(np.float32) - 3  # below 0, where padding with zeros would show
  expected = np.empty_like(x)
  for i in range(4):
    for j in range(5):
      expected[0, i, j] = reduce(x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2], (0, 1))
  np.testing.assert_allclose(pool(jnp.asarray(x)), expected, rtol=1e-5)


def test_pictures_are_enlarged_with_pixels_as_areas_and_no_antialiasing(rng):
  pictures = rng.integers(0, 256, (1, 40, 330, 3), np.uint8)  # one axis grows, the other shrinks

  def line(values, n):  # along the first axis, by its definition
    at = np.clip((np.arange(299) + 0.5) * n / 299 - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), n - 2)
    part = (at - low)[:, None, None]
    return values[low] * (1 - part) + values[low + 1] * part

  tall = line(pictures[0].astype(np.float64), 40)
  expected = line(tall.swapaxes(0, 1), 330).swapaxes(0, 1) / 127.5 - 1
  np.testing.assert_allclose(inception_input(jnp.asarray(pictures))[0], expected, atol=2e-4)
