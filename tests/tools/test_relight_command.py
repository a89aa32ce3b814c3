"""`shapegan relight` shades what was rendered once: under its own light it is the rendering, to rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import on_models
from PIL import Image
from tiny_models import tiny

from shapegan_jax import UserError
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.lights import lights_from_angles
from shapegan_jax.inversion import light_estimation
from shapegan_jax.inversion.light_estimation import estimate_lights, relit
from shapegan_jax.model import Model
from shapegan_jax.rendering.shading import GaussianLights, lambertian
from shapegan_jax.reporting.previews import to_uint8
from shapegan_jax.rng import root_key
from shapegan_jax.tools.relight import relight
from shapegan_jax.tools.shared import drawing
from shapegan_jax.types import Lights, Rendering

SIZE, CELL, LEFT = 8, 66, 56


@pytest.fixture(scope="module")
def models():
  return {method: tiny(method) for method in ("shadegan", "gof")}


@pytest.fixture
def shapegan(models, monkeypatch, tmp_path):
  """Runs the command on a model that is compiled already; outputs are in `tmp_path`."""
  monkeypatch.chdir(tmp_path)
  return on_models(relight, "relight", models, SIZE, monkeypatch)


def ball(n=16) -> Rendering:
  """A white ball on nothing, seen from the front; rows from the top."""
  x, y = np.meshgrid(np.linspace(-1.2, 1.2, n), np.linspace(1.2, -1.2, n))
  inside = x**2 + y**2 < 1
  normals = np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], -1) * inside[..., None]
  albedo = np.repeat(inside[..., None], 3, -1).astype(float)
  leaves = [jnp.asarray(leaf, jnp.float32)[None] for leaf in (albedo, albedo, normals, inside)]
  return Rendering(leaves[0], albedo=leaves[1], normals=leaves[2], acc=leaves[3])


def test_under_its_own_light_a_picture_is_what_was_rendered(models):
  model = models["shadegan"]
  background = model.method.background
  assert background == 1.0
  key = jax.random.key(1)
  lights = Lights(jax.random.uniform(key, (2, 4), minval=-0.7, maxval=1.0))
  rendering = model.render(model.sample_latents(2), model.sample_cameras(2, key), lights, resolution=SIZE)
  assert float(rendering.acc.max()) > 0.1
  np.testing.assert_allclose(relit(rendering, lights, background), rendering.rgb, atol=1e-6)
  # And it says something: another light gives another picture.
  assert np.abs(relit(rendering, Lights(-lights.code), background) - rendering.rgb).max() > 1e-3


@pytest.mark.parametrize("azimuth", [-180.0, -120.0, -90.0, -30.0, 0.0, 45.0, 90.0, 150.0])
@pytest.mark.parametrize("elevation", [-60.0, 0.0, 35.0, 90.0])
def test_any_direction_shades_as_lambert_says(azimuth, elevation):
  ambient, diffuse = np.array([0.2], np.float32), np.array([0.5], np.float32)
  a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
  towards = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
  lights, behind = lights_from_angles(a, e, ambient, diffuse)
  expected = (0.2 + 0.5 * np.maximum(0, ball().normals @ towards))[..., None] * ball().albedo
  np.testing.assert_allclose(relit(ball(), lights, 0.0, behind=behind), expected, atol=2e-4)


def test_light_comes_from_where_it_is_said_to_and_from_behind_darkens():
  strengths = np.array([0.2], np.float32), np.array([0.8], np.float32)

  def lit(azimuth, elevation):
    lights, behind = lights_from_angles(np.deg2rad(azimuth), np.deg2rad(elevation), *strengths)
    return np.asarray(relit(ball(), lights, 0.0, behind=behind))[0, ..., 0]

  left, right = lit(60, 0)[:, :8].sum(), lit(60, 0)[:, 8:].sum()
  assert right > 1.5 * left, "positive azimuth: towards +x, the right of a front view"
  top, bottom = lit(0, 60)[:8].sum(), lit(0, 60)[8:].sum()
  assert top > 1.5 * bottom
  assert lit(180, 0).sum() < 0.5 * lit(0, 0).sum()
  np.testing.assert_allclose(lit(180, 0), 0.2 * ball().albedo[0, ..., 0], atol=1e-6)


def test_the_sheet_shows_its_own_light_albedo_normals_and_each_light(shapegan, models, monkeypatch, capsys):
  drawn, draw_one = [], drawing._draw_one
  monkeypatch.setattr(drawing, "_draw_one", lambda *args: drawn.append(args) or draw_one(*args))
  shapegan("--output=a.png", "--seeds", "0", "1", "--azimuth", "-60", "60", "--elevation", "20", "--diffuse=1")
  assert "5 columns, the rows are seed 0, seed 1" in capsys.readouterr().out
  assert len(drawn) == 2, "once for each subject, whatever the number of lights"
  picture = np.asarray(Image.open("a.png"))
  header = picture.shape[0] - 2 * CELL
  assert (header, picture.shape[1]) == (28, LEFT + 5 * CELL)
  model = models["shadegan"]
  for row, seed in enumerate((0, 1)):
    latents = model.sample_latents(1, root_key(seed))
    mean = model.mean_lights(1)
    own = model.render(model.codes(latents), model.central_cameras(1), mean, resolution=SIZE)
    x = np.tan(np.deg2rad(60.0))
    y = np.tan(np.deg2rad(20.0)) / np.cos(np.deg2rad(60.0))
    left = model.render(
      model.codes(latents),
      model.central_cameras(1),
      Lights(jnp.array([[mean.code[0, 0], 1.0, -x, y]], jnp.float32)),
      resolution=SIZE,
    )
    top = header + row * CELL
    for column, expected in ((0, own), (3, left)):
      at = LEFT + column * CELL
      found = picture[top : top + 64 : 8, at : at + 64 : 8].astype(int)
      assert np.abs(found - to_uint8(expected.rgb)[0]).max() <= 1


def test_a_video_has_all_its_frames_and_a_model_without_light_can_be_lit(shapegan, capsys):
  shapegan("--output=a.gif", "--seeds", "0", "1", "--seconds=0.7", "--fps=10", model="gof")
  assert "has no light" in capsys.readouterr().out
  with Image.open("a.gif") as gif:
    assert gif.size == (256, 128)
    assert gif.n_frames == 7
  shapegan("--output=a.png", "--seeds", "0", model="gof")
  assert Image.open("a.png").size == (LEFT + 9 * CELL, 28 + CELL)


def test_the_light_of_a_picture_is_put_beside_it(shapegan, tmp_path, rng, capsys):
  Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
  shapegan("--output=a.png", "--seeds", "0", f"--light-from={tmp_path / 'photo.jpg'}")
  assert "azimuth" in capsys.readouterr().out
  assert Image.open("a.png").size == (LEFT + 5 * CELL, 16 + CELL)


class Balls:
  """A method whose shapes are balls of random colour under known lights, with as much as `estimate_lights` asks for."""

  background = 1.0
  has_shape, has_surface, uses_data, stages = True, False, True, ()
  plan = init = update = params_of = cameras_at = codes = query = print  # what a `Method` has besides

  def sample_latents(self, key, n):
    return jax.random.uniform(key, (n, 3))

  def sample_cameras(self, key, n):
    return orbit_cameras(jnp.zeros(n), jnp.zeros(n), fov=0.2)

  def sample_lights(self, key, n):
    prior = GaussianLights(np.array([-0.3, 0.2, 0.0, 0.2]), np.diag([0.01, 0.01, 0.36, 0.16]))
    return prior.sample(key, (n,))

  def render(self, params, scene, *, resolution, truncation=1.0, key=None):
    shape = ball(resolution)
    albedo = (0.3 + 0.5 * scene.latents)[:, None, None] * shape.albedo
    normals = jnp.broadcast_to(shape.normals, albedo.shape)
    color, shading = lambertian(albedo, normals, scene.lights)
    acc = jnp.broadcast_to(shape.acc, albedo.shape[:-1])
    return Rendering(color + (1 - acc)[..., None], albedo, shading, normals, acc=acc)


def test_the_light_is_learned_from_lights_of_which_no_two_are_the_same():
  features, codes = light_estimation._examples(Model(Balls(), {}, {"method": "balls"}))
  assert features.shape == (10 * 8 * 32, 16**2)
  assert len(np.unique(codes, axis=0)) == len(codes)


def test_the_light_of_a_picture_is_found_within_ten_degrees():
  model = Model(Balls(), {}, {"method": "balls"})
  key = jax.random.key(7)
  lights = model.sample_lights(12, key)
  pictures = to_uint8(model.render(model.sample_latents(12, key), lights=lights, resolution=16).rgb)
  found = estimate_lights(model, pictures)
  angles = np.rad2deg(np.arccos(np.clip((found.direction * lights.direction).sum(-1), -1, 1)))
  mean = np.rad2deg(np.arccos((model.mean_lights(12).direction * lights.direction).sum(-1)))
  assert np.median(mean) > 20, "the prior's mean would not do"
  assert np.median(angles) < 10


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--output=a.png", "--seeds"), "--seeds"),
    (("--output=a.tif",), "must end in .png, .mp4 or .gif"),
    (("--output=a.png", "--azimuth", "200"), "--azimuth"),
    (("--output=a.png", "--elevation", "nan"), "--elevation"),
    (("--output=a.gif", "--azimuth", "0", "1", "2"), "--azimuth"),
    (("--output=a.png", "--ambient=1.5"), "--ambient"),
    (("--output=a.png", "--diffuse=-1"), "--diffuse"),
    (("--output=a.gif", "--fps=1000"), "--fps"),
    (("--output=a.png", "--light-from=absent.png"), "absent.png: no such file"),
    (("--output=a.png", "--light-from=old"), "cannot be read as a picture"),
    (("--output=a.png", "--light-from=old", "--azimuth", "3"), "--light-from"),
    (("--output=a.gif", "--light-from=old"), "--light-from"),
    (("--output=a.png", "--resolution=1"), "--resolution"),
    (("--output=a.png", "--truncation=nan"), "--truncation"),
    ((), "--output"),
  ],
)
def test_mistakes_are_answered_in_one_line_and_nothing_is_written(shapegan, tmp_path, arguments, words):
  (tmp_path / "old").write_bytes(b"no picture")
  with pytest.raises(UserError) as caught:
    shapegan(*arguments)
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_picture_has_no_light_for_a_model_that_knows_none(shapegan, tmp_path):
  Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
  with pytest.raises(UserError, match="has no light"):
    shapegan("--output=a.png", f"--light-from={tmp_path / 'photo.png'}", model="gof")
