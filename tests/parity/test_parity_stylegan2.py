"""StyleGAN2 against the published PyTorch code: a thin network of random weights, through `shapegan convert`'s reader.

`tests/goldens/stylegan2_thin.npz` holds the checkpoint's tensors by their published names (`g_ema/...`, `d/...`) and
what the code answered (`expected/...`); of its two sets of three pictures, one each.
"""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.torch_writer import state_dict, write
from golden import SHIPPED, assert_values, channels_last, folder, original

from shapegan_jax.convert.stylegan2 import read_gan
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.stylegan2.frozen import FrozenGan

NAME = "gan2shape_thin"
FIXTURES = ["zip", "stream"] + (["original"] if folder() else [])


@pytest.fixture(scope="module", params=FIXTURES)
def golden(request, tmp_path_factory):
  """(the converted GAN, expected arrays)."""
  if request.param == "original":
    path = original(NAME)
    arrays = {name.removeprefix("sg2_"): x for name, x in np.load(path / "expected.npz").items()}
    arrays["image_noise"], arrays["image_trunc_constnoise"] = (
      arrays["image_noise"][:1],
      arrays["image_trunc_constnoise"][2:],
    )
    return read_gan(path / "stylegan2_rosinality_64_thin.pt"), arrays
  stored = dict(np.load(SHIPPED / "stylegan2_thin.npz"))

  def part(name):
    return {key.removeprefix(f"{name}/"): x for key, x in stored.items() if key.startswith(f"{name}/")}

  checkpoint = {name: state_dict(part(name)) for name in ("g_ema", "d")}
  path = write(tmp_path_factory.mktemp("golden") / "thin.pt", checkpoint, form=request.param)
  return read_gan(path), part("expected")


@pytest.fixture(scope="module")
def gan(golden):
  found, _ = golden
  params = jax.tree.map(jnp.asarray, found.params)
  return FrozenGan.of(SimpleNamespace(method=build(found.config), params=params))


def synthesize(gan, w, noise):
  apply = jax.jit(lambda w, noise: gan.generator.apply(gan._variables, w, noise, method="synthesize"))
  return apply(w, noise)


def test_the_networks_are_the_published_ones(golden, gan):
  found, expected = golden
  assert found.config["mapping"] == {"size": 64, "layers": 4, "rate": 0.01}
  assert found.config["synthesis"]["channels"] == found.config["discriminator"]["channels"] == (48, 48, 32, 24, 16)
  w = gan.styles(jnp.asarray(expected["z"]))
  assert_values(w, expected["w"], "w")
  noise = [jnp.asarray(expected[f"noise_{i}"][0]) for i in range(9)]
  assert_values(synthesize(gan, w[:1], noise), channels_last(expected["image_noise"]), "with given noise")
  mean = w.mean(0, keepdims=True)  # as the fixture was truncated
  stored = [gan.params["noise"][f"noise_{i}"][None] for i in range(9)]
  truncated = synthesize(gan, (mean + 0.7 * (w - mean))[2:], stored)
  assert_values(truncated, channels_last(expected["image_trunc_constnoise"]), "truncated, with stored noise")
  logits = jax.jit(lambda image: gan.discriminator.apply({"params": gan.params["discriminator"]}, image))
  assert_values(logits(jnp.asarray(channels_last(expected["disc_in"]))), expected["disc_logit"][:, 0], "logits")
