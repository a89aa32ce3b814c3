"""Image encoders: the sizes of their answers, what they see, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.networks.image_encoders import HalvingBlock, ImageEncoder, OffsetEncoder, VectorEncoder


@pytest.mark.parametrize(("resolution", "light", "blocks"), [(8, 0, 0), (32, 4, 2)])
def test_answers_have_their_sizes_and_every_halving_its_block(key, resolution, light, blocks):
  network = ImageEncoder(10, light, resolution, width=8, max_width=12)
  params = jax.eval_shape(network.init_params, key)["params"]
  assert sorted(params) == ["blocks_0", "blocks_1"][:blocks] + ["entrance", "heads"]
  widths = 8 if blocks == 0 else 12  # doubled once, up to the largest
  assert params["heads"]["kernel"].shape == (16 * widths, 10 + 2 + light)
  image = jax.ShapeDtypeStruct((3, resolution, resolution, 3), jnp.float32)
  codes, pose, lights = jax.eval_shape(network.apply, {"params": params}, image)
  assert (codes.shape, pose.shape, lights.shape) == ((3, 10), (3, 2), (3, light))


def test_every_part_of_the_picture_and_its_place_matter(key, rng):
  network = ImageEncoder(6, 4, 8, width=8)
  variables = network.init_params(key)
  apply = jax.jit(lambda image: jnp.concatenate(network.apply(variables, image), -1))
  image = rng.uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
  pictures = np.concatenate([image] * 5 + [np.roll(image, 4, 1)])
  for n, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
    pictures[n, row : row + 4, column : column + 4] *= -1
  answers = apply(jnp.asarray(pictures))
  apart = np.abs(answers[:, None] - answers[None]).max(-1)[~np.eye(6, dtype=bool)]
  assert apart.min() > 1e-3


@pytest.mark.parametrize("resolution", [4, 12, 63])
def test_a_resolution_that_cannot_be_halved_to_four_is_refused(key, resolution):
  with pytest.raises(UserError, match="power of two, at least 8"):
    ImageEncoder(6, 0, resolution).init_params(key)


@pytest.mark.parametrize(
  ("network", "published"),
  [
    (VectorEncoder(6, 64, 64), 6.95e6),
    (VectorEncoder(4, 128, 32), 6.98e6),
    (OffsetEncoder(512, 64), 3.57e6),
    (OffsetEncoder(512, 128), 13.79e6),
  ],
)
def test_the_published_sizes_have_the_published_number_of_parameters(network, published):
  variables = jax.eval_shape(network.init_params, jax.random.key(0))
  assert abs(sum(x.size for x in jax.tree.leaves(variables)) - published) < 0.006e6


def test_vectors_are_bounded_offsets_are_not_and_all_of_the_picture_matters(key, rng):
  image = jnp.asarray(rng.uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
  changed = jnp.concatenate([image.at[0, i, j].multiply(-1) for i, j in ((0, 0), (15, 0), (0, 15), (15, 15))])
  for network in (VectorEncoder(6, 16, 4), OffsetEncoder(6, 16, 4)):
    variables = network.init_params(key)
    loud = jax.tree.map(lambda x: 3 * x, variables)
    answer, others, large = jax.jit(
      lambda v, w, network=network: (network.apply(v, image), network.apply(v, changed), network.apply(w, 9 * image))
    )(variables, loud)
    assert answer.shape == (1, 6)
    assert np.all(np.any(answer != others, -1))
    assert (np.abs(large).max() > 1) == isinstance(network, OffsetEncoder)


def test_the_way_around_a_halving_block_sees_its_input_after_the_relu(key, rng):
  block = HalvingBlock(2, 3)
  x = jnp.asarray(rng.normal(size=(1, 4, 4, 2)), jnp.float32)
  variables = block.init(key, x)
  silent = {**variables["params"], "conv_1": jax.tree.map(jnp.zeros_like, variables["params"]["conv_1"])}
  means = np.maximum(np.asarray(x), 0).reshape(1, 2, 2, 2, 2, 2).mean((2, 4))
  skip = variables["params"]["skip"]
  expected = means @ np.asarray(skip["kernel"])[0, 0] + np.asarray(skip["bias"])
  np.testing.assert_allclose(block.apply({"params": silent}, x), expected, atol=1e-6)
