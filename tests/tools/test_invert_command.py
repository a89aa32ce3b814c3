"""`shapegan invert` and `train-encoder`: what they write, what they leave out, and one line for every mistake."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from commands import refused, run
from PIL import Image

from configs import common, shadegan
from shapegan_jax.errors import UserError
from shapegan_jax.inversion import encoder as encoders
from shapegan_jax.meshing import extraction as mesh_extraction
from shapegan_jax.methods.catalog import build
from shapegan_jax.model import Model, load
from shapegan_jax.tools.invert import read_photograph
from shapegan_jax.tools.shared import inversion_sheet
from shapegan_jax.tools.shared.instances import choose


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A generator of 8 pixels that nothing has trained."""
  config = common.shrink(shadegan.get_config("heads"))
  config.stages.resolution = tuple(8 for _ in config.stages.resolution)
  config.rendering.eval_samples = 6
  method = build(config.to_dict())
  path = tmp_path_factory.mktemp("model") / "model.safetensors"
  Model(method, method.init_generator(jax.random.key(0)), config.to_dict()).save(path)
  return path


def photograph(path, mode="RGB", size=(30, 20)):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(len(path.name)).integers(0, 255, (*size[::-1], len(mode)), dtype=np.uint8)
  Image.fromarray(pixels).save(path)
  return path


@pytest.fixture
def no_mesh(monkeypatch):
  """Mesh making has its own tests; without its extra the sheet shows normals as clay instead."""

  def missing(*unused):
    raise UserError("scikit-image is missing")

  monkeypatch.setattr(mesh_extraction, "Extractor", missing)


def test_an_encoder_is_trained_and_a_folder_inverted_with_it(saved, tmp_path, capsys, no_mesh, monkeypatch):
  monkeypatch.setattr(encoders, "_CHUNK", 16)
  encoder = tmp_path / "encoder.safetensors"
  code, said, err = run(
    capsys,
    *("train-encoder", f"--model={saved}", f"--workdir={tmp_path / 'work'}", f"--output={encoder}"),
    *("--samples=512", "--steps=3", "--resolution=8", "--batch=4"),
  )
  assert code == 0, err
  assert "degrees" in said
  photos, out = tmp_path / "photos", tmp_path / "found"
  photograph(photos / "a.png")
  photograph(photos / "deeper" / "b.png", "RGBA")
  (photos / "broken.jpg").write_text("no picture")
  before = sorted(path for path in photos.rglob("*"))
  arguments = (f"--model={saved}", f"--input={photos}", f"--output={out}", f"--encoder={encoder}")
  code, said, err = run(capsys, "invert", *arguments, "--steps=12", "--batch=2")
  assert code == 0, err
  assert "broken.jpg" in said
  assert "2 to invert" in said
  names = ["a", "deeper-b"]
  wanted = [f"{name}{ending}" for name in names for ending in (".json", ".png", ".safetensors")]
  assert sorted(path.name for path in out.iterdir()) == sorted(wanted)
  assert sorted(path for path in photos.rglob("*")) == before
  model = load(saved)
  for name in names:
    numbers = json.loads((out / f"{name}.json").read_text())
    subject = choose(model, (), out / f"{name}.safetensors")
    assert subject.names == (name,)
    assert numbers["encoder"] == str(encoder)
    assert np.degrees(subject.cameras.yaw[0]) == pytest.approx(numbers["yaw_deg"], abs=1e-4)
    assert np.asarray(subject.lights.code[0]) == pytest.approx(numbers["light"]["code"])
    # The numbers are of the very codes that were written, and of the photograph as it was read.
    path = photos / ("a.png" if name == "a" else "deeper/b.png")
    rgb = np.asarray(model.render(subject.latents, subject.cameras, subject.lights).rgb, np.float64)
    error = np.mean((rgb[0] - read_photograph(path, model)) ** 2)
    assert numbers["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    sheet = np.asarray(Image.open(out / f"{name}.png"))
    cell = inversion_sheet._CELL
    assert sheet.shape[0] > 4 * cell
    assert sheet.shape[1] > 6 * cell


def test_a_mask_and_transparency_become_background(saved, tmp_path):
  model = load(saved)
  clear = np.full((16, 16, 4), 90, np.uint8)
  clear[:, 8:, 3], clear[:, :8, 3] = 0, 255
  Image.fromarray(clear).save(tmp_path / "clear.png")
  Image.fromarray(clear[..., :3]).save(tmp_path / "whole.png")
  Image.fromarray(clear[..., 3]).save(tmp_path / "mask.png")
  seen = read_photograph(tmp_path / "clear.png", model)
  masked = read_photograph(tmp_path / "whole.png", model, mask=tmp_path / "mask.png")
  for picture in (seen, masked):
    np.testing.assert_allclose(picture[:, :3], 90 / 255, atol=0.02)
    np.testing.assert_allclose(picture[:, 5:], model.method.background, atol=0.02)
  np.testing.assert_allclose(read_photograph(tmp_path / "whole.png", model), 90 / 255, atol=1e-6)


def test_mistakes_are_answered_in_one_line(saved, tmp_path, capsys):
  photos = tmp_path / "photos"
  photo = photograph(photos / "a.png")
  black = tmp_path / "black.png"
  Image.fromarray(np.zeros((20, 30), np.uint8)).save(black)
  (tmp_path / "broken.png").write_text("no picture")
  (tmp_path / "empty").mkdir()
  (tmp_path / "bad").mkdir()
  (tmp_path / "bad" / "x.png").write_text("no picture")
  before = sorted(tmp_path.rglob("*"))
  model, given, out = f"--model={saved}", f"--input={photo}", f"--output={tmp_path / 'found'}"
  work = f"--workdir={tmp_path / 'work'}"
  for arguments, words in (
    (("invert", model, given), "--output"),
    (("invert", model, f"--input={tmp_path / 'absent.png'}", out), "no such file"),
    (("invert", model, f"--input={tmp_path / 'broken.png'}", out), "cannot be read as a picture"),
    (("invert", model, f"--input={tmp_path / 'empty'}", out), "No images"),
    (("invert", model, given, f"--output={photos}"), "is the folder of the photograph"),
    (("invert", model, f"--input={photos}", f"--output={photos / 'in'}"), "lies in the folder"),
    (("invert", model, given, f"--output={photo}"), "is a file"),
    (("invert", f"--model={tmp_path / 'absent'}", given, out), "no such model"),
    (("invert", model, given, out, "--steps=0"), "--steps=0"),
    (("invert", model, given, out, "--batch=0"), "--batch=0"),
    (("invert", model, given, out, "--perceptual=-1"), "--perceptual"),
    (("invert", model, given, out, "--perceptual=1"), "smaller than 32 pixels"),
    (("invert", model, given, out, f"--encoder={tmp_path / 'absent'}"), "no such file"),
    (("invert", model, given, out, f"--encoder={saved}"), "is not an encoder"),
    (("invert", model, given, out, f"--encoder={black}"), "cannot read"),
    (("invert", model, given, out, f"--mask={tmp_path / 'absent.png'}"), "no such file"),
    (("invert", model, given, out, f"--mask={photos}"), "a file for a photograph"),
    (("invert", model, given, out, f"--mask={black}"), "black everywhere"),
    (("train-encoder", model, work, "--samples=5"), "--samples=5"),
    (("train-encoder", model, work, "--resolution=12"), "power of two"),
    (("train-encoder", model, work, "--resolution=16"), "have 8 pixels"),
    (("train-encoder", model, work, "--rate=2"), "--rate=2"),
    (("train-encoder", model, work, f"--output={tmp_path / 'x.pth'}"), "must end in .safetensors"),
    (("train-encoder", model, f"--workdir={photo}"), "is a file"),
  ):
    assert words in refused(capsys, *arguments), arguments
    assert sorted(tmp_path.rglob("*")) == before, arguments
  code, said, err = run(capsys, "invert", model, f"--input={tmp_path / 'bad'}", out)
  assert code == 2
  assert "x.png" in said
  assert "none of its 1 pictures" in err


@pytest.mark.parametrize("name", ["invert", "train-encoder"])
def test_help_has_an_example(name, capsys):
  code, said, _ = run(capsys, name, "--help")
  assert code == 0
  assert f"shapegan {name} --model=" in said
