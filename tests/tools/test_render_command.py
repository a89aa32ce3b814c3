"""`shapegan render` draws what `Model.render` gives, where the labels say, or writes nothing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import on_models
from PIL import Image
from tiny_models import saved, tiny

from shapegan_jax import UserError
from shapegan_jax.reporting.previews import to_uint8
from shapegan_jax.tools import cli
from shapegan_jax.tools.render import interpolation, orbit, render
from shapegan_jax.tools.shared import drawing, instances

SIZE, CELL, LEFT, HEADER = 8, 66, 56, 16


@pytest.fixture(scope="module")
def models():
  return {method: tiny(method) for method in ("shadegan", "gof")}


@pytest.fixture
def shapegan(models, monkeypatch, tmp_path):
  """Runs the command on a model that is compiled already; outputs are in `tmp_path`."""
  monkeypatch.chdir(tmp_path)
  return on_models(render, "render", models, SIZE, monkeypatch)


def picture_of(model, seed, name="rgb", yaw=None, pitch=None):
  """uint8 [8, 8, 3], without the code under test."""
  subject = instances.from_seeds(model, (seed,))
  cameras = subject.cameras
  if yaw is not None:
    cameras = model.cameras_at(jnp.deg2rad(jnp.array([yaw])), jnp.deg2rad(jnp.array([pitch or 0.0])))
  draw = model.render_surface if name == "surface" else model.render
  drawn = draw(model.codes(subject.latents), cameras, subject.lights, resolution=SIZE)
  return to_uint8(drawn.albedo + 1 - drawn.acc[..., None] if name == "albedo" else drawn.rgb)[0]


def cell(path, row, column):
  """A picture of a sheet at its own size."""
  top, left = HEADER + row * CELL, LEFT + column * CELL
  return np.asarray(Image.open(path))[top : top + 64 : 8, left : left + 64 : 8]


def assert_same(found, expected):
  assert np.abs(np.asarray(found, int) - expected).max() <= 1


def test_the_sheet_shows_all_maps_and_two_more_views_of_each_seed(shapegan, models, capsys):
  shapegan("--output=new/sheet.png", "--seeds", "0", "5")
  said = capsys.readouterr()
  assert "7 rows, the columns are seed 0, seed 5" in said.out
  assert Image.open("new/sheet.png").size == (LEFT + 2 * CELL, HEADER + 7 * CELL)
  for column, seed in enumerate((0, 5)):
    for row, given in ((0, {}), (1, {"name": "albedo"}), (5, {"yaw": -35.0}), (6, {"yaw": 35.0})):
      assert_same(cell("new/sheet.png", row, column), picture_of(models["shadegan"], seed, **given))


def test_angles_make_rows_in_their_order(shapegan, models):
  shapegan("--output=sweep.png", "--seeds", "3", "--yaw", "-30", "30", "--pitch", "0", "20")
  assert Image.open("sweep.png").size == (LEFT + CELL, HEADER + 4 * CELL)
  for row, (yaw, pitch) in enumerate(((-30.0, 0.0), (30.0, 0.0), (-30.0, 20.0), (30.0, 20.0))):
    assert_same(cell("sweep.png", row, 0), picture_of(models["shadegan"], 3, yaw=yaw, pitch=pitch))


def test_without_a_grid_each_picture_is_a_file(shapegan, models, tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "mine.txt").touch()
  shapegan("--output=out", "--no-grid", "--seeds", "0", "1", "--show", "rgb", "surface", "--yaw", "-30", model="gof")
  names = [f"seed-{seed}_yaw-30_{name}.png" for seed in (0, 1) for name in ("rgb", "surface")]
  assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["mine.txt", *names])
  assert [path.name for path in tmp_path.iterdir()] == ["out"]
  for seed in (0, 1):
    for name in ("rgb", "surface"):
      expected = picture_of(models["gof"], seed, name, yaw=-30.0)
      assert_same(Image.open(tmp_path / "out" / f"seed-{seed}_yaw-30_{name}.png"), expected)


def test_full_truncation_leaves_one_shape(shapegan):
  shapegan("--output=same.png", "--seeds", "0", "1", "--truncation=0", "--show", "rgb")
  np.testing.assert_array_equal(cell("same.png", 0, 0), cell("same.png", 0, 1))
  shapegan("--output=other.png", "--seeds", "0", "1", "--show", "rgb")
  assert (cell("other.png", 0, 0) != cell("other.png", 0, 1)).any()


@pytest.mark.parametrize("video", ["orbit", "interpolate"])
def test_a_video_has_all_its_frames(shapegan, video, tmp_path):
  shape = ("--seeds", "0", "1", "2", "--show", "rgb", "depth")
  shapegan(f"--output={video}.gif", f"--video={video}", "--seconds=0.5", "--fps=10", *shape)
  with Image.open(f"{video}.gif") as gif:
    # Subjects beside each other, and what is shown below each other; of a single subject side by side.
    assert gif.size == ((384, 256) if video == "orbit" else (256, 128))
    assert gif.n_frames == 5
  assert [path.name for path in tmp_path.iterdir()] == [f"{video}.gif"]


def test_the_walk_is_closed_and_passes_every_seed(models):
  model = models["shadegan"]
  given = instances.from_seeds(model, (0, 1, 2))
  turned = model.cameras_at(jnp.array([0.1, 0.2, -0.3]), jnp.array([0.0, 0.1, 0.2]))
  given = dataclasses.replace(given, latents=model.codes(given.latents), cameras=turned)
  path = interpolation(model, given, 12)
  assert [len(there) for there in path] == [1] * 12
  for i in range(3):
    parts = [[x.latents, x.cameras.yaw, x.cameras.pitch] for x in (path[4 * i], given[i])]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *parts)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, given[i].latents, given[(i + 1) % 3].latents)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), path[4 * i + 2].latents, middle)
  assert float(interpolation(model, given, 4, yaw=(30.0,))[1].cameras.yaw[0]) == pytest.approx(np.pi / 6)


def test_an_orbit_is_closed_and_keeps_to_its_ends(models):
  given = instances.from_seeds(models["shadegan"], (0, 1))
  path = orbit(models["shadegan"], given, 40, yaw=(10.0, 50.0), pitch=(5.0,))
  yaw = np.rad2deg([there.cameras.yaw for there in path])
  assert yaw.shape == (40, 2)
  assert (yaw.min(), yaw.max()) == pytest.approx((10, 50))
  np.testing.assert_allclose(np.rad2deg([there.cameras.pitch for there in path]), 5, atol=1e-4)
  steps = np.abs(np.diff(yaw, axis=0, append=yaw[:1]))
  assert steps.max() < 1.1 * 20 * 2 * np.pi / 40, "no jump, the last frame leads to the first"


def test_a_model_without_light_shows_what_it_has(shapegan, models):
  shapegan("--output=sheet.png", "--seeds", "1", model="gof")
  assert Image.open("sheet.png").size == (LEFT + CELL, HEADER + 5 * CELL)
  assert_same(cell("sheet.png", 0, 0), picture_of(models["gof"], 1))


def test_names_of_files_are_plain_and_differ():
  assert drawing.file_names(["seed 0", "a/b.png"]) == ["seed-0", "a-b.png"]
  assert drawing.file_names(["a b", "a/b", ".."]) == ["0_a-b", "1_a-b", "2_subject"]


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--output=a.png", "--seeds"), "--seeds"),
    (("--output=a.png", "--seeds", "-1"), "--seeds"),
    (("--output=a.png", "--codes=absent.safetensors"), "no such file"),
    (("--output=a.jpg",), "must end in .png, .mp4 or .gif"),
    (("--output=.",), "is a folder"),
    (("--output=old", "--no-grid"), "is a file"),
    (("--output=a.gif", "--no-grid"), "--no-grid"),
    (("--output=a.png", "--video=orbit"), "--video=orbit"),
    (("--output=a.gif", "--video=interpolate", "--seeds", "0"), "two subjects"),
    (("--output=a.gif", "--video=interpolate", "--yaw", "0", "1"), "--yaw"),
    (("--output=a.gif", "--yaw", "0", "1", "2"), "--yaw"),
    (("--output=a.gif", "--seconds=-1"), "--seconds"),
    (("--output=a.png", "--pitch", "95"), "--pitch"),
    (("--output=a.png", "--yaw", "nan"), "--yaw"),
    (("--output=a.png", "--truncation=2"), "--truncation"),
    (("--output=a.png", "--resolution=100000"), "--resolution"),
    (("--output=a.png", "--show", "surface"), "no surface"),
    (("--output=a.png", "--show", "dance"), "dance"),
    (("--output=a.png", "--show", "shading", "--model=gof"), "has no light"),
    (("--seeds", "0"), "--output"),
  ],
)
def test_mistakes_are_answered_in_one_line_and_nothing_is_written(shapegan, tmp_path, arguments, words):
  (tmp_path / "old").touch()
  with pytest.raises(UserError) as caught:
    shapegan(*arguments)
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_an_unknown_model_is_named(tmp_path):
  with pytest.raises(UserError, match="absent: no such model"):
    cli._run(render, "render", ["--model=absent", f"--output={tmp_path / 'a.png'}"])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("grid", [True, False])
def test_a_full_disk_leaves_the_old_files_and_nothing_else(shapegan, tmp_path, monkeypatch, grid):
  old = tmp_path / ("a.png" if grid else "a/seed-0_rgb.png")
  old.parent.mkdir(exist_ok=True)
  old.write_text("old")
  save, written = Image.Image.save, []

  def save_half(image, path, **how):
    if len(written) == (0 if grid else 1):
      path.write_bytes(b"half")
      raise OSError(28, "No space left on device")
    written.append(path)
    save(image, path, **how)

  monkeypatch.setattr(Image.Image, "save", save_half)
  with pytest.raises(UserError, match="No space left on device"):
    shapegan("--output=" + ("a.png" if grid else "a"), *([] if grid else ["--no-grid"]), "--seeds", "0", "1")
  assert [path for path in tmp_path.rglob("*") if path.is_file()] == [old]
  assert old.read_text() == "old"


def test_an_exported_file_and_its_codes_are_drawn(models, tmp_path):
  model = models["shadegan"]
  given = instances.from_seeds(model, (4,))
  instances.save_codes(
    tmp_path / "codes.safetensors", model, dataclasses.replace(given, latents=model.codes(given.latents))
  )
  arguments = [f"--codes={tmp_path / 'codes.safetensors'}", "--show", "rgb", f"--resolution={SIZE}"]
  cli._run(render, "render", [f"--model={saved(tmp_path, 'shadegan')}", f"--output={tmp_path / 'a.png'}", *arguments])
  assert_same(cell(tmp_path / "a.png", 0, 0), picture_of(model, 4))
