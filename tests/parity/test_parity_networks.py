"""Discriminators and the surface-tracking network against the published ones, at their released sizes.

Their weights are too large to be shipped, so this needs the original files; `test_regression_networks.py` holds the
same code at a small size to its own values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_values, channels_last, original
from published_discriminators import patch_discriminator, progressive_discriminator

from shapegan_jax.convert import layouts
from shapegan_jax.convert.pigan_family import surface_slots
from shapegan_jax.convert.torch_files import read_torch
from shapegan_jax.convert.torch_values import tensors_of
from shapegan_jax.networks.discriminators import ProgressiveDiscriminator
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator
from shapegan_jax.networks.surface_net import SurfaceNet


def load(name, file):
  """(tensors by their published names, expected arrays) of an original fixture."""
  path = original(name)
  return tensors_of(read_torch(path / file)), dict(np.load(path / "expected.npz"))


def assert_complete(variables, network, key):
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, jax.eval_shape(network.init_params, key))


@pytest.mark.parametrize(("size", "fade"), [(32, 1.0), (64, 0.3)])
def test_the_progressive_discriminator_is_the_published_one(key, size, fade):
  tensors, expected = load("discriminator_pigan", "discriminator_state.pth")
  variables = {"params": progressive_discriminator(tensors)}
  discriminator = ProgressiveDiscriminator(latent_dim=256, pose=True)
  assert_complete(variables, discriminator, key)
  image = jnp.asarray(channels_last(expected[f"disc_in_{size}"]))
  answer = jax.jit(discriminator.apply)(variables, image, jnp.float32(fade))
  name = f"{size}_alpha{fade}"
  assert_values(answer.logit, expected[f"disc_logit_{name}"][:, 0], "logit")
  assert_values(answer.latent, expected[f"disc_latent_{name}"], "latent")
  assert_values(answer.pose, expected[f"disc_pose_{name}"], "pose")


def test_the_patch_discriminator_is_the_published_one(key):
  tensors, expected = load("graf_discriminator", "discriminator_state.pth")
  variables = patch_discriminator(tensors)
  discriminator = PatchDiscriminator()
  assert_complete(variables, discriminator, key)
  # The published network takes rows of colours: it read the memory of this array as [batch, height, width, 3].
  patches = jnp.asarray(expected["disc_in"].reshape(-1, 32, 32, 3))
  answer = jax.jit(discriminator.apply)(variables, patches)
  assert_values(answer.logit, expected["disc_logit"][:, 0, 0, 0], "logit")


def test_the_surface_network_is_the_published_one(key):
  tensors, expected = load("shadegan_surfacenet", "surfacenet_state.pth")
  variables = {"params": layouts.fill(surface_slots(576, 256, 4, prefix="", path=""), tensors)}
  network = SurfaceNet(576)
  assert_complete(variables, network, key)
  codes, pose = (jnp.asarray(expected[name]) for name in ("freq_phase", "pose"))
  answer = jax.jit(network.apply)(variables, codes, pose)
  assert_values(answer, expected["output"][:, 0], "relative distance")
