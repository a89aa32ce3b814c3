"""StyleGAN2 without shapess: `shapegan render` draws its pictures, and what needs a shape says so in one line."""

from __future__ import annotations

import numpy as np
import pytest
from commands import refused, run
from PIL import Image

from configs import stylegan2
from shapegan_jax.methods.catalog import build
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  config = stylegan2.get_config("smoke").to_dict()
  method = build(config)
  path = tmp_path_factory.mktemp("stylegan2") / "pictures.safetensors"
  Model(method, method.params_of(method.init(root_key(0))), config).save(path)
  return path


def test_render_draws_a_row_of_pictures(model, tmp_path, capsys):
  code, said, _ = run(capsys, "render", f"--model={model}", f"--output={tmp_path / 'sheet.png'}", "--seeds", 0, 1)
  assert code == 0
  assert "1 rows, the columns are seed 0, seed 1" in said
  assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 0


def test_render_walks_between_pictures(model, tmp_path, capsys):
  arguments = "--video=interpolate", "--seconds=1", "--fps=3", "--seeds", 0, 1, 2
  run(capsys, "render", f"--model={model}", f"--output={tmp_path / 'walk.gif'}", *arguments)
  with Image.open(tmp_path / "walk.gif") as walk:
    assert walk.n_frames == 3


@pytest.mark.parametrize(
  "arguments",
  [
    ("render", "--output=OUT.png", "--show", "normals"),
    ("render", "--output=OUT.png", "--yaw", 10),
    ("render", "--output=OUT.gif"),
    ("relight", "--output=OUT.png"),
    ("mesh", "--output=OUT.glb"),
    ("invert", "--input=PHOTO", "--output=OUT"),
    ("train-encoder", "--output=OUT.safetensors", "--workdir=OUT"),
    ("view",),
  ],
)
def test_what_needs_a_shape_says_so_in_one_line(model, tmp_path, capsys, arguments):
  photo, out = tmp_path / "photo.png", tmp_path / "out"
  Image.new("RGB", (32, 32), "grey").save(photo)
  command, *rest = (str(argument).replace("OUT", str(out)).replace("PHOTO", str(photo)) for argument in arguments)
  assert "makes pictures without shapes" in refused(capsys, command, f"--model={model}", *rest)
  assert list(tmp_path.iterdir()) == [photo]
