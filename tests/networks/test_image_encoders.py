"""The image encoder: its answers' sizes, what it sees, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.networks.image_encoders import ImageEncoder


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
  with pytest.raises(UserError, match="power of two from 8 on"):
    ImageEncoder(6, 0, resolution).init_params(key)
