"""pi-GAN against its authors' code: codes, and every way of rendering."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_picture, assert_values, channels_last, fixtures, image, read, with_mapping

from configs import pigan
from shapegan_jax.methods.volume_gan.pigan import PiGan
from shapegan_jax.types import Scene

VARIANTS = {
  "plain": {},
  "lastback": {"eval_last_back": True},
  "white": {"background": 1.0},
  "softplus": {"clamp": "softplus"},
  "coarse": {"fine": False},
}


def published(width: int, sine: str = "fast", **rendering):
  """The authors' CelebA settings at the fixture's width and 12 samples a pass."""
  config = pigan.get_config("celeba")
  config.field.update(width=width, sine=sine)
  config.rendering.update({"eval_samples": 12, "eval_last_back": False, **rendering})
  return config.to_dict()


@pytest.mark.parametrize("sine", ["fast", "exact"])
@pytest.mark.parametrize("path", fixtures("pigan"))
def test_pictures_and_depths_are_the_published_ones(path, sine):
  golden = read(path)
  methods = {name: golden.build(PiGan, published(golden.width, sine, **variant)) for name, variant in VARIANTS.items()}

  @jax.jit
  def pictures(params):
    scene = Scene(jnp.zeros((2, 256)), golden.cameras)
    drawn = {name: method.render(params, scene, resolution=24, truncation=0.7) for name, method in methods.items()}
    return {name: (picture.rgb, picture.distance) for name, picture in drawn.items()}  # normals need not be compiled

  for name, (rgb, distance) in pictures(golden.params).items():
    assert_picture(image(rgb), channels_last(golden.expected[f"image_{name}"]), name)
    assert_picture(distance, golden.expected[f"depth_{name}"], name)


@pytest.mark.parametrize("path", fixtures("pigan"))
def test_the_whole_way_from_latents_to_the_training_picture(path):
  """Mapping, then rendering without truncation, as in a generator's forward pass."""
  golden = with_mapping(path)
  method = PiGan.from_config(published(golden.width))

  @jax.jit
  def draw(params, latents):
    return method.render(params, Scene(latents, golden.cameras), resolution=24).rgb

  rgb = draw(golden.params, jnp.asarray(golden.expected["z"]))
  assert_picture(image(rgb), channels_last(golden.expected["image_train"]))


@pytest.mark.parametrize("path", fixtures("pigan") + fixtures("gof")[1:] + fixtures("shadegan")[1:])
def test_codes_are_those_of_the_published_mapping_network(path):
  golden = with_mapping(path)
  generator = PiGan.from_config(published(golden.width)).generator
  frequencies, phases = generator.codes(golden.params, jnp.asarray(golden.expected["z"]))
  assert_values(frequencies, golden.expected["frequencies"])
  assert_values(phases, golden.expected["phase_shifts"])


@pytest.mark.parametrize("path", fixtures("pigan"))
def test_truncation_draws_towards_the_same_mean(path):
  """Ours and theirs are means over 10,000 latents each: their difference has sqrt(2) / 100 of a code's deviation."""
  golden = with_mapping(path)
  generator = PiGan.from_config(published(golden.width)).generator
  latents = jax.random.normal(jax.random.key(1), (500, 256))
  spread = np.std(np.concatenate(generator.codes(golden.params, latents), -1), 0)
  mean = np.concatenate(generator.codes(golden.params, latents[:1], truncation=0.0), -1)[0]
  theirs = np.concatenate([golden.expected["avg_frequencies"], golden.expected["avg_phase_shifts"]], -1)[0]
  deviations = (mean - theirs) / (spread * np.sqrt(2) / 100)
  assert np.abs(deviations).max() < 6
  assert 0.7 < deviations.std() < 1.4
