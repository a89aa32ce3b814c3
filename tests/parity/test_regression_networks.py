"""Values of the discriminators and the surface network at a small size, as computed by this code when it was shown to
agree with the published networks at their released size (`test_parity_networks.py`).

They are regression values, not published ones: they hold the code to what agreed, where the originals are not at hand.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from golden import SHIPPED, assert_values

from shapegan_jax.networks.discriminators import ProgressiveDiscriminator
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator
from shapegan_jax.networks.surface_net import SurfaceNet

STORED = SHIPPED / "regression_networks.npz"


def wave(shape, seed):
  """Numbers of deviation 1 that need no random generator."""
  return (np.sqrt(2) * np.sin(np.arange(1, np.prod(shape) + 1) ** 1.3 + seed)).reshape(shape).astype(np.float32)


def filled(variables):
  """The same tree with kernels that keep the size of what they are given, small biases, and scales about 1."""

  def fill(path, leaf):
    names = [entry.key for entry in path]
    seed, name = sum(map(ord, "".join(names))), names[-1]
    size = {"kernel": np.sqrt(2 / np.prod(leaf.shape[:-1])), "bias": 0.1, "scale": 0.1}[name]
    return jnp.asarray(size * wave(leaf.shape, seed) + (name == "scale"), jnp.float32)

  return jax.tree_util.tree_map_with_path(fill, variables)


def spectral_vectors(kernel):
  """What power iteration converges to."""
  v, _, u = np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]), full_matrices=False)
  return {"u": jnp.asarray(u[0], jnp.float32), "v": jnp.asarray(v[:, 0].reshape(kernel.shape[:-1]), jnp.float32)}


def answers(key):
  """Every network's answer to waves, at a small size."""
  discriminator = ProgressiveDiscriminator(
    max_resolution=32, width_multiplier=0.05, max_channels=12, latent_dim=3, pose=True
  )
  variables = filled(jax.eval_shape(discriminator.init_params, key))
  found = {}
  for size, fade in ((16, 1.0), (32, 0.3)):
    answer = jax.jit(discriminator.apply)(variables, jnp.asarray(wave((2, size, size, 3), 0.5)), fade)
    for name in ("logit", "latent", "pose"):
      found[f"progressive_{size}_{name}"] = getattr(answer, name)
  patch = PatchDiscriminator(width_multiplier=0.05)
  variables = {"params": filled(jax.eval_shape(patch.init_params, key)["params"])}
  variables["spectral"] = {name: spectral_vectors(layer["kernel"]) for name, layer in variables["params"].items()}
  found["patch_logit"] = jax.jit(patch.apply)(variables, jnp.asarray(wave((2, 32, 32, 3), 0.5))).logit
  surface = SurfaceNet(12, width=32, resolution=16)
  variables = filled(jax.eval_shape(surface.init_params, key))
  found["surface"] = jax.jit(surface.apply)(variables, jnp.asarray(wave((2, 12), 0.5)), jnp.asarray(wave((2, 2), 1.5)))
  return found


def test_networks_answer_as_they_did_when_they_agreed_with_the_published_ones(key):
  found, stored = answers(key), np.load(STORED)
  assert sorted(found) == sorted(stored)
  for name, value in found.items():
    assert np.abs(stored[name]).max() > 0.01
    assert_values(value, stored[name], name)
