"""GOF against its authors' code: roots, masks, windows, occupancies, and volume and surface pictures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Recorder, assert_picture, assert_values, channels_last, fixtures, image, read, weighted_variance

from configs import gof
from shapegan_jax.methods.volume_gan import base as volume_gan
from shapegan_jax.methods.volume_gan.gof import Gof
from shapegan_jax.networks.siren import FilmSiren
from shapegan_jax.rendering.opacities import Solid
from shapegan_jax.rendering.samplers import HierarchicalSampler, PointSampler
from shapegan_jax.rendering.volume import Window, with_gradient
from shapegan_jax.types import FieldSamples

VARIANTS = {
  "interval0.12": (0.12, 0.7),
  "interval0.02": (0.02, 0.7),
  "interval0.12_psi1": (0.12, 1.0),
  "interval0.02_psi1": (0.02, 1.0),
}


def published(width: int, sine: str):
  """The authors' BFM settings (9 coarse, 12 surface, 3 fine points, 4 secant steps) at the fixture's width."""
  config = gof.get_config("bfm")
  config.field.update(width=width, sine=sine)
  config.rendering.update(eval_samples=12, eval_last_back=False)
  return config.to_dict()


@pytest.mark.parametrize("path", fixtures("gof"))
def test_logits_colours_and_normals_of_points_are_the_published_ones(path):
  golden = read(path)
  expected = {name: jnp.asarray(value) for name, value in golden.expected.items()}
  field = FilmSiren(width=golden.width)

  def answer(points, directions, frequencies, phases):
    def at(points, viewdirs):
      return FieldSamples(*field.apply({"params": golden.params["field"]}, points, viewdirs, frequencies, phases))

    samples = with_gradient(at)(points[:, None], directions)
    unit = -samples.gradient / jnp.linalg.norm(samples.gradient, axis=-1, keepdims=True)
    return samples.raw, samples.color[:, 0], unit[:, 0]

  codes = (expected["frequencies"], expected["phase_shifts"])
  logits, colors, normals = jax.jit(jax.vmap(answer))(expected["points"], expected["directions"], *codes)
  assert_values(logits, golden.expected["logit_points"], "logits")
  assert_values(colors, golden.expected["rgb_points"], "colours")
  assert_values(normals, golden.expected["normal_points"], "normals")


def assert_volume(picture, expected, name):
  assert_picture(image(picture.rgb), channels_last(expected[f"imgs_{name}"]), f"image {name}")
  assert_picture(picture.distance, expected[f"depth_map_{name}"], f"depth {name}")
  assert_picture(picture.extras["weights"], expected[f"weights_{name}"], f"weights {name}")
  assert_picture(picture.extras["alphas"], expected[f"occupancy_{name}"], f"occupancy {name}")
  assert_picture(weighted_variance(picture), expected[f"depth_var_{name}"], f"variance {name}")


def assert_surface(picture, expected, name):
  assert_picture(picture.rgb, channels_last(expected[f"single_imgs_{name}"]), f"colour {name}")
  assert_picture((picture.normals + 1) / 2, channels_last(expected[f"surface_normals_{name}"]), f"normals {name}")


@pytest.fixture
def draw(monkeypatch):
  """(golden, method, sampler=None) -> a compiled (codes, width of the region) -> volume, and the field where it is.

  What the published code calls surface rendering shows the field at the expected distance of every ray.
  """
  monkeypatch.setattr(volume_gan, "Compositor", Recorder)

  def make(golden, method, sampler):
    @jax.jit
    def render(params, codes, width):
      asked = (params, codes, golden.cameras, method.rays(golden.cameras, 24))
      compositor = method.compositor()
      window = None if isinstance(sampler, HierarchicalSampler) else Window(centre=None, width=width)
      volume = method.renderer(sampler, compositor)(*asked, window=window)
      there = Window(centre=volume.distance.reshape(2, -1), width=jnp.ones(()))
      at_point = method.renderer(PointSampler(), compositor, gradient=True, opacity=Solid())
      return volume, at_point(*asked, window=there)

    return lambda psi, half_width: render(
      golden.params, method.generator.codes(golden.params, None, truncation=psi), jnp.float32(2 * half_width)
    )

  return make


@pytest.mark.parametrize("sine", ["fast", "exact"])
@pytest.mark.parametrize("path", fixtures("gof"))
def test_roots_regions_and_pictures_are_the_published_ones(path, sine, draw):
  golden = read(path)
  method = golden.build(Gof, published(golden.width, sine))
  render = draw(golden, method, method.sampler(12))
  for name, (half_width, psi) in VARIANTS.items():
    volume, surface = render(psi, half_width)
    found = np.asarray(volume.extras["found"])
    assert_picture(found, golden.expected[f"mask_{name}"], f"mask {name}")
    root = np.where(found, volume.extras["root"], 1.0)  # the published answer for rays without one
    assert_picture(root, golden.expected[f"pred_depth_{name}"], f"root {name}")
    assert_volume(volume, golden.expected, name)
    assert_surface(surface, golden.expected, name)


@pytest.mark.parametrize("path", fixtures("gof"))
def test_without_a_search_the_volume_is_hierarchical_sampling_of_occupancy(path, draw):
  golden = read(path)
  method = golden.build(Gof, published(golden.width, "fast"))
  volume, surface = draw(golden, method, HierarchicalSampler(9, 3))(0.7, 0.0)
  assert_volume(volume, golden.expected, "nosurface")
  assert_surface(surface, golden.expected, "nosurface")
