"""Every shipped model draws what it drew when its card was made: pictures stored before the package was rearranged."""

from pathlib import Path

import jax
import numpy as np
import pytest

import shapegan_jax
from shapegan_jax.model import shipped_models

STORED = Path(__file__).parent / "goldens" / "zoo_pictures.npz"
RESOLUTION = 32


def pictures_of(name: str) -> dict[str, np.ndarray]:
  """The default samples (latents, poses and lights of the priors) and two fixed views: uint8 [2, 32, 32, 3] each."""
  model = shapegan_jax.load(name)
  turned = model.cameras_at(np.array([-0.4, 0.4]), np.array([0.1, -0.1]))
  views = {"sampled": model.sample_cameras(2), "turned": turned}
  latents, lights = model.sample_latents(2), model.sample_lights(2)
  render = jax.jit(lambda cameras: model.render(latents, cameras, lights, resolution=RESOLUTION).rgb)
  return {view: np.round(255 * np.asarray(render(cameras))).astype(np.uint8) for view, cameras in views.items()}


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_a_shipped_model_draws_the_stored_pictures_to_one_grey_level(name):
  with np.load(STORED) as stored:
    for view, picture in pictures_of(name).items():
      expected = stored[f"{name}/{view}"]
      assert expected.std() > 10  # there is something in it
      np.testing.assert_allclose(picture.astype(int), expected.astype(int), atol=1, err_msg=f"{name}, {view}")


def test_every_stored_model_still_ships():
  with np.load(STORED) as stored:
    assert {key.partition("/")[0] for key in stored.files} == set(shipped_models())
