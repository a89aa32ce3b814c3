"""ShadeGAN against its authors' code: what a pixel is made of, shaded in full, by half, and without truncation."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Recorder, assert_picture, assert_values, channels_last, fixtures, image, read, weighted_variance

from configs import shadegan
from shapegan_jax.geometry.cameras import to_polar
from shapegan_jax.methods.volume_gan import base as volume_gan
from shapegan_jax.methods.volume_gan import shadegan as shadegan_module
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.types import Lights, Scene

# In a bin without weight (mass 2e-5) float32 knows the place of an importance sample to 0.3 % of the bin, and within a
# bin a normal turns by degrees: the same formulas in float64 differ from the published float32 normals in 0.8 % of the
# pixels.
NORMALS = 0.02


def published(width: int, sine: str):
  """The authors' settings with view and light conditioning, at the fixture's width and 12 samples a pass."""
  config = shadegan.get_config("bfm_view")
  config.field.update(width=width, sine=sine)
  config.rendering.eval_samples = 12
  return config.to_dict()


@pytest.mark.parametrize("sine", ["fast", "exact"])
@pytest.mark.parametrize("path", fixtures("shadegan"))
def test_pictures_and_all_they_are_made_of_are_the_published_ones(path, sine, monkeypatch):
  golden = read(path)
  expected, cameras = golden.expected, golden.cameras
  monkeypatch.setattr(volume_gan, "Compositor", Recorder)
  method = golden.build(shadegan_module.ShadeGan, published(golden.width, sine))

  @jax.jit
  def draw(params, ratio):
    monkeypatch.setattr(shadegan_module, "lambertian", partial(lambertian, ratio=ratio))
    lights, latents = Lights(jnp.asarray(expected["light"])), jnp.zeros((2, 256))
    truncated, raw = (
      method.render(params, Scene(latents, cameras, lights), resolution=24, truncation=psi) for psi in (0.7, 1.0)
    )
    return truncated, raw

  (half, _), (plain, psi1) = draw(golden.params, 0.5), draw(golden.params, 1.0)
  for name, picture in (("plain", plain), ("psi1", psi1), ("half", half)):
    assert_picture(image(picture.rgb), channels_last(expected[f"rgb_{name}"]), f"rgb {name}")
    assert_picture(picture.shading[..., 0], expected[f"shading_{name}"], f"shading {name}")
  for name, picture in (("plain", plain), ("psi1", psi1)):
    assert_picture(image(picture.albedo), channels_last(expected[f"albedo_{name}"]), f"albedo {name}")
    assert_picture(picture.normals, channels_last(expected[f"normal_{name}"]), f"normals {name}", NORMALS)
    assert_picture(picture.distance, expected[f"depth_{name}"], f"depth {name}")
    assert_picture(picture.extras["weights"], expected[f"weights_{name}"], f"weights {name}")
    assert_picture(np.sqrt(weighted_variance(picture)), expected[f"depth_std_{name}"], f"deviation {name}")
    assert_values(jnp.stack(to_polar(cameras.yaw, cameras.pitch), -1), expected[f"pose_{name}"], f"pose {name}")
