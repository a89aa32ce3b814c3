"""GAN2Shape's geometry and its networks against the published code.

The networks' weights are too large to be shipped: with the original files they are compared, and without them their
answers at a small size are held to what this code gave when they agreed.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import SHIPPED, assert_values, channels_last, original
from published_gan2shape import network
from test_regression_networks import filled, wave

from shapegan_jax.convert.torch_files import read_torch
from shapegan_jax.convert.torch_values import tensors_of
from shapegan_jax.geometry.relief import PUBLISHED_EPSILON, ReliefCamera, move, relief_normals, unproject
from shapegan_jax.networks.depth_net import MapNet
from shapegan_jax.networks.image_encoders import OffsetEncoder, VectorEncoder
from shapegan_jax.rendering.warping import canonical_grid, view_grid

STORED = SHIPPED / "regression_gan2shape.npz"


def test_points_normals_and_warps_are_the_published_ones():
  golden = np.load(SHIPPED / "gan2shape_geometry.npz")
  camera, depth, views = ReliefCamera(32), jnp.asarray(golden["depth"]), jnp.asarray(golden["view"])
  points = unproject(camera, depth)
  assert_values(points, golden["grid3d"], "points")
  assert_values(relief_normals(camera, depth, epsilon=PUBLISHED_EPSILON), golden["normal"], "normals")
  assert_values(move(points, views), golden["warped3d"], "moved points")
  assert_values(view_grid(camera, depth, views), golden["warped2d"], "the way there")
  assert_values(canonical_grid(camera, depth, views), golden["invwarped2d"], "the way back")


@pytest.mark.parametrize(
  ("stored", "name", "size", "options"),
  [
    ("depth", "depth", 64, {}),
    ("albedo", "albedo", 64, {}),
    ("view", "view", 64, {}),
    ("light", "light", 64, {}),
    ("offset_encoder", "offset", 128, {}),
    ("depth_128", "depth", 128, {"group_size": 2}),  # the fixture's; released ones have 4
  ],
)
def test_networks_are_the_published_ones(stored, name, size, options):
  folder = original("gan2shape_thin")
  expected = np.load(folder / "expected.npz")
  module, params = network(name, tensors_of(read_torch(folder / "gan2shape_networks_thin.pt")[stored]))
  module = dataclasses.replace(module, **options)
  assert module.resolution == size
  answer = jax.jit(module.apply)({"params": params}, jnp.asarray(channels_last(expected[f"net_in_{size}"])))
  answer = jnp.tanh(answer) if name == "albedo" else answer
  output = expected[f"net_{stored.partition('_')[0]}_{size}"]
  assert_values(answer, channels_last(output) if output.ndim == 4 else output, stored)


def answers(key):
  """Every network's answer to waves, at a small size."""
  networks = {"map": MapNet(32, 4, 6, 2), "vector": VectorEncoder(6, 32, 4), "offset": OffsetEncoder(6, 32, 4)}
  image = jnp.asarray(wave((2, 32, 32, 3), 0.5))
  variables = {name: filled(jax.eval_shape(network.init_params, key)) for name, network in networks.items()}
  return {name: jax.jit(network.apply)(variables[name], image) for name, network in networks.items()}


def test_networks_answer_as_they_did_when_they_agreed_with_the_published_ones(key):
  found, stored = answers(key), np.load(STORED)
  assert sorted(found) == sorted(stored)
  for name, value in found.items():
    assert np.abs(stored[name]).max() > 0.01
    assert_values(value, stored[name], name)
