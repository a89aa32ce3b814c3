"""What a `Model` draws where it is given nothing: latents, cameras and lights, each by the stream of its own name."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import ToyMethod

from shapegan_jax.checkpoints import Checkpoints
from shapegan_jax.model import Model, from_workdir
from shapegan_jax.rng import stream
from shapegan_jax.types import Lights, Rendering

N = 3


@dataclasses.dataclass(frozen=True)
class Telling(ToyMethod):
  """Its pictures tell of what they are: the latent, the angles, the light."""

  def sample_lights(self, key, n):
    return Lights(jnp.full((n, 4), 0.5) if key is None else jax.random.normal(key, (n, 4)))

  def render(self, params, scene, *, resolution, truncation=1.0, key=None):
    angles = jnp.stack([scene.cameras.yaw, scene.cameras.pitch], -1)
    told = jnp.concatenate([truncation * scene.latents, angles, scene.lights.code], -1)
    return Rendering(rgb=jnp.zeros((*told.shape[:1], resolution, resolution, 3)), extras={"told": told})


def drawn(key):
  """(latents, angles, light codes) by their definition."""
  angles = 0.2 * jax.random.normal(stream(key, "cameras"), (2, N))
  latents, lights = (jax.random.normal(stream(key, name), (N, k)) for name, k in (("latents", 3), ("lights", 4)))
  return latents, angles.T, lights


@pytest.fixture(scope="module")
def model():
  return Model(Telling(), {}, {})


@pytest.mark.parametrize("seed", [None, 7])
def test_samples_are_those_of_the_streams(model, seed):
  key = None if seed is None else jax.random.key(seed)
  latents, angles, lights = drawn(jax.random.key(0 if seed is None else seed))
  scene = model.sample_scene(N, key)
  for found in (scene, (model.sample_latents(N, key), model.sample_cameras(N, key), model.sample_lights(N, key))):
    one, cameras, light = (found.latents, found.cameras, found.lights) if found is scene else found
    np.testing.assert_array_equal(one, latents)
    np.testing.assert_array_equal(jnp.stack([cameras.yaw, cameras.pitch], -1), angles)
    np.testing.assert_array_equal(light.code, lights)
  np.testing.assert_array_equal(model.mean_lights(N).code, 0.5)
  np.testing.assert_array_equal(model.central_cameras(N).yaw, 0.0)
  turned = model.cameras_at(yaw=0.3, pitch=jnp.array([-0.1, 0.2]))
  np.testing.assert_allclose(turned.yaw, [0.3, 0.3])
  np.testing.assert_allclose(turned.pitch, [-0.1, 0.2])


@pytest.mark.parametrize("given", list(itertools.product([True, False], repeat=3))[:-1])
def test_render_draws_what_is_not_given_with_its_key_and_keeps_what_is(model, given):
  key, other = jax.random.key(7), jax.random.key(8)
  scene = model.sample_scene(N, other)
  parts = (scene.latents, scene.cameras, scene.lights)
  picture = model.render(*(part if keep else None for part, keep in zip(parts, given, strict=True)), key=key)
  expected = [a if keep else b for a, b, keep in zip(drawn(other), drawn(key), given, strict=True)]
  np.testing.assert_allclose(picture.extras["told"], np.concatenate(expected, -1), atol=1e-6)
  half = model.render(scene.latents, resolution=4, truncation=0.5)
  np.testing.assert_allclose(half.extras["told"][:, :3], 0.5 * np.asarray(drawn(other)[0]), atol=1e-6)


def test_a_workdirs_model_is_the_average_of_its_newest_checkpoint(tmp_path):
  method = ToyMethod()
  state = method.init(jax.random.key(0))
  with Checkpoints(tmp_path, asynchronous=False) as saved:
    for step in (4, 6):
      average = {"offset": jnp.full(3, step, jnp.float32), "radius": jnp.float32(step / 100)}
      saved.save(step, dataclasses.replace(state, ema=average))
  model = from_workdir(tmp_path, method, {})
  assert model.step == 6
  np.testing.assert_array_equal(model.params["offset"], 6.0)
  np.testing.assert_array_equal(model.params["radius"], np.float32(0.06))
