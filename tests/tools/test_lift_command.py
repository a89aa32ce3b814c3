"""`shapegan lift`: what it writes, that it goes on where it stopped, and one line for every mistake."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest
import tiny_models
from commands import refused, run
from PIL import Image

from configs import stylegan2
from shapegan_jax.geometry.relief import ReliefCamera
from shapegan_jax.meshing.reliefs import relief_mesh
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.method import instances as lifting
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.model import Model, load
from shapegan_jax.parallel import StopSignals
from shapegan_jax.tools import lift as lift_command
from shapegan_jax.tools.lifting import files as lift_files
from shapegan_jax.tools.lifting import run as lift_run
from shapegan_jax.tools.lifting import subjects as lift_subjects

SIZE = 8
SCHEDULE = ("--schedule", "2", "3", "2", "--symmetry=none")


_load = functools.cache(load)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
  """Reading a model traces all of it."""
  monkeypatch.setattr("shapegan_jax.model.load", lambda path: _load(str(path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def gan(folder):
  """A StyleGAN2 of 16 pixels that nothing has trained."""
  config = stylegan2.get_config("smoke")
  stylegan2.networks(config, (8, 8), latent=8)
  config.stages.resolution = (SIZE,)
  config = config.to_dict()
  method = build(config)
  params = jax.jit(lambda key: method.params_of(method.init(key)))(jax.random.key(0))
  path = folder / "gan.safetensors"
  Model(method, params, config).save(path)
  return path


@pytest.fixture(scope="module")
def joint(folder, gan):
  """A GAN2Shape model as joint training leaves it, but untrained."""
  network = {
    name: value for name, value in _load(str(gan)).config.items() if name in ("mapping", "synthesis", "discriminator")
  }
  config = {
    "method": "gan2shape",
    "stages": {"resolution": SIZE, "samples": 2, "pool": 2, "flip_albedo": (False,), "flip_joint": (True,)},
    "subjects": {"count": 2},
    "gan": {"model": str(gan), "network": network},
    "networks": {"width": 4, "bottleneck": 8, "encoder_width": 4, "offset_width": 4},
    "relief": {"supersample": 1},
    "views": {"estimate": True},
  }
  method = Gan2Shape.from_config(config)
  networks = jax.jit(method.model.init)(jax.random.key(1))
  pictures = np.random.default_rng(0).integers(0, 255, (2, SIZE, SIZE, 3), np.uint8)
  path = folder / "joint.safetensors"
  Model(method, {"networks": networks, "pictures": pictures}, config).save(path)
  return path


@pytest.fixture(scope="module")
def photographs(folder):
  """Two pictures with masks, and a file that is none."""
  rng = np.random.default_rng(3)
  for name, size in (("a", (20, 30)), ("b", (24, 24))):
    for kind in ("photos", "masks"):
      (folder / kind).mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / "photos" / f"{name}.jpg")
    mask = np.zeros(size, np.uint8)
    mask[4:-4, 4:-4] = 255
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
  (folder / "photos" / "broken.png").write_text("no picture")
  return folder / "photos"


@pytest.fixture(scope="module")
def compiled():
  """What several runs of one test compile, compiled once: settings -> object."""
  kept = {}

  def once(cls, identify):
    def make(*arguments, **options):
      name = (cls.__name__, identify(*arguments, **options))
      if name not in kept:
        kept[name] = cls(*arguments, **options)
      return kept[name]

    return make

  return once


@pytest.fixture
def quick(compiled, monkeypatch):
  monkeypatch.setattr(lift_files, "SECONDS", 0.5)
  monkeypatch.setattr(lifting, "Lifter", compiled(lifting.Lifter, lambda config: json.dumps(config, sort_keys=True)))
  monkeypatch.setattr(lift_run, "Studio", compiled(lift_run.Studio, lambda method, gan, masked: (id(method), masked)))
  monkeypatch.setattr(lift_run, "Projector", compiled(lift_run.Projector, lambda gan, config: config))


class _Stopping(StopSignals):
  """Asked to stop at the first step after `calls` looks."""

  def __init__(self, calls):
    self.calls = calls

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    pass

  @property
  def asked(self):
    self.calls -= 1
    return self.calls < 0


def numbers(folder):
  told = json.loads((folder / "lift.json").read_text())
  return {name: told[name] for name in ("depth", "yaw_deg", "pitch_deg", "light", "projection_psnr")} | {
    "last": {name: ends[1] for name, ends in told["losses"]["round 1"].items()}
  }


def test_photographs_are_lifted_and_a_stopped_run_goes_on(joint, photographs, tmp_path, capsys, quick, monkeypatch):
  arguments = ("lift", f"--model={joint}", f"--input={photographs}", f"--mask={photographs.parent / 'masks'}")
  arguments += (*SCHEDULE, "--batch=2", "--projection-steps=12", "--video=gif", "--mesh", "glb", "obj")
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  code, said, err = run(capsys, *arguments, f"--output={whole}")
  assert code == 0, err
  assert "left out" in said
  assert "broken.png" in said
  assert "lifting 2 pictures" in said
  files = ["lift.json", "mesh.glb", "mesh.obj", "sheet.png", "steps.png"]
  files += [f"{kind}_{how}.gif" for kind in ("relight", "rotate") for how in ("3d", "gan")]
  for name in ("a", "b"):
    assert sorted(path.name for path in (whole / name).iterdir()) == sorted(files)
  assert sorted(path.name for path in (whole / "previews").iterdir()) == ["round_1_encoder.png", "round_1_joint.png"]
  told = json.loads((whole / "a" / "lift.json").read_text())
  assert told["config"]["stages"]["prior"] == 0
  assert told["config"]["views"]["estimate"] is False
  assert np.shape(told["config"]["views"]["covariance"]) == (6, 6)
  assert {"albedo/l1", "encoder/l1", "collect/l1", "joint/l1"} <= set(told["losses"]["round 1"])
  assert 0.9 <= told["depth"]["nearest"] <= told["depth"]["farthest"] <= 1.1
  assert np.linalg.norm(told["light"]["direction"]) == pytest.approx(1, abs=1e-5)
  assert np.asarray(Image.open(whole / "a" / "sheet.png")).shape[1] > 14 * 64
  assert Image.open(whole / "a" / "rotate_gan.gif").n_frames == 8
  # Stopped in the middle, then told again: the same as never stopped, to the last digit.
  monkeypatch.setattr(lifting, "StopSignals", functools.partial(_Stopping, 4))
  code, said, _ = run(capsys, *arguments, f"--output={parts}")
  assert code == 0
  assert "stopped; the same command goes on" in said
  assert not (parts / "a").exists()
  assert [path.name for path in (parts / "runs" / "0" / "checkpoints").iterdir()] == ["5"]
  monkeypatch.setattr(lifting, "StopSignals", functools.partial(_Stopping, 10**9))
  projected = []
  monkeypatch.setattr(lift_subjects, "place", lambda *unused, **unused_too: projected.append(1))
  code, _, err = run(capsys, *arguments, f"--output={parts}")
  assert code == 0, err
  assert not projected, "photographs must not be projected again"
  for name in ("a", "b"):
    assert numbers(parts / name) == numbers(whole / name)
  assert numbers(whole / "a") != numbers(whole / "b")
  # Another run may not take the folder.
  code, _, err = run(capsys, *arguments, f"--output={parts}", "--truncation=1", "--background=plain")
  assert code == 2
  assert "made with another config" in err
  assert err.count("\n") == 1


def test_seeds_are_pictures_of_the_generator(joint, gan):
  wanted = lift_subjects.wanted_seeds((0, 7))
  method, frozen = _load(str(joint)).method, FrozenGan.of(_load(str(gan)))
  placed = lift_subjects.place(wanted, method, frozen, list, truncation=0.7, progress=lambda done: None)
  alone = lift_subjects.place(wanted[1:], method, frozen, list, truncation=0.7, progress=lambda done: None)
  assert placed.psnr is None
  np.testing.assert_allclose(placed.subjects.image[1:], alone.subjects.image, atol=1e-5)
  np.testing.assert_allclose(placed.subjects.image, frozen.image(placed.subjects.latent), atol=1e-5)
  assert not np.allclose(placed.subjects.latent[0], placed.subjects.latent[1])


def test_a_stylegan2_starts_from_the_ellipsoid(gan):
  networks, pictures, config, frozen = lift_command.open_generator(str(gan), _load(str(gan)))
  assert (networks, pictures) == (None, None)
  schedule = lift_command.schedule_of(("full",), None, pretrained=False)
  method = Gan2Shape.from_config(lifting.instance_config(config, schedule, pretrained=False, symmetry="none"))
  assert [stage.mode for _, stage in method.stages[:5]] == ["prior", "albedo", "encoder", "collect", "joint"]
  assert (method.table.prior, method.table.length()) == (1000, 1000 + 1300 + 2200 + 4 * 100 + 1800)
  assert (method.model.resolution, method.model.networks.width) == (SIZE, 64)
  assert not any(stage.flip for _, stage in method.stages)
  # Of networks that many pictures trained, the published schedule of faces.
  schedule = lift_command.schedule_of(("full",), None, pretrained=True)
  method = Gan2Shape.from_config(lifting.instance_config(config, schedule, pretrained=True))
  assert method.table.length() == 1200 + 2100 + 4 * 100 + 1300
  assert [stage.flip for _, stage in method.stages if stage.mode == "joint"] == [True, False, False, False]
  faster = {**config, "optimizers": {**config.get("optimizers", {}), "learning_rate": 1e-2}}
  rate = Gan2Shape.from_config(lifting.instance_config(faster, schedule, pretrained=True)).optimizer.learning_rate
  assert rate == 1e-4, "joint training's is not that of a subject's own networks"
  six = lift_command.schedule_of(("5", "6", "7", "1", "2", "3"), 3, pretrained=True)
  assert (six.rounds, six.albedo, six.encoder, six.joint) == (3, (5, 1), (6, 2), (7, 3))
  assert frozen.resolution == SIZE


def test_a_relief_becomes_a_mesh_in_the_world(rng):
  size = 16
  camera = ReliefCamera(size, 10.0)
  row, column = np.mgrid[:size, :size]
  depth = (1 - 0.002 * column + 0.001 * row).astype(np.float32)  # nearer to the right, farther below
  texture = rng.integers(0, 255, (size, size, 3), np.uint8)
  mask = np.zeros((size, size), bool)
  mask[3:9, 2:12] = True
  mesh = relief_mesh(camera, depth, texture, mask)
  assert (len(mesh.vertices), len(mesh.faces)) == (6 * 10, 2 * 5 * 9)
  # Counter-clockwise from the front, whose normals look along +z, to the left and up here.
  assert (mesh.normals[:, 2] > 0.5).all()
  assert (mesh.normals[:, 0] < 0).all()
  x, y, z = mesh.vertices.T
  across, down = (mesh.uvs * size - 0.5).round().astype(int).T
  np.testing.assert_allclose(z, 1 - depth[down, across], atol=1e-6)
  slope = np.tan(np.radians(5.0))
  np.testing.assert_allclose(x, (2 * across / (size - 1) - 1) * slope * (1 - z), atol=1e-6)
  np.testing.assert_allclose(y, -(2 * down / (size - 1) - 1) * slope * (1 - z), atol=1e-6)
  np.testing.assert_allclose(mesh.colors * 255, texture[down, across], atol=1e-3)


def test_mistakes_are_answered_in_one_line(joint, gan, photographs, tmp_path, capsys):
  other = tiny_models.saved(tmp_path, "pigan")
  model, out, photo = f"--model={joint}", f"--output={tmp_path / 'lifted'}", photographs / "a.jpg"
  given = f"--input={photo}"
  before = sorted(tmp_path.rglob("*"))
  for arguments, words in (
    ((model,), "--output"),
    ((model, f"--output={photo}"), "is a file"),
    ((model, out, f"--input={tmp_path / 'absent.png'}"), "no such file"),
    ((model, f"--output={photographs / 'in'}", f"--input={photographs}"), "lies in the folder"),
    ((model, out, f"--input={photographs / 'broken.png'}"), "cannot be read as a picture"),
    ((model, out, f"--mask={photo}"), "name it with --input"),
    ((model, out, given, f"--mask={tmp_path / 'absent.png'}"), "no such file"),
    ((model, out, given, f"--mask={photographs}"), "a file for a photograph"),
    ((model, out, "--seeds", "-1"), "seeds are whole numbers"),
    ((model, out, "--schedule=long"), "must be short, full, bfm"),
    ((model, out, "--schedule", "1", "2"), "3 or 6 numbers"),
    ((model, out, "--schedule", "1", "2", "0"), "3 or 6 numbers"),
    ((model, out, "--rounds=0"), "--rounds=0"),
    ((model, out, "--batch=0"), "--batch=0"),
    ((model, out, "--truncation=2"), "--truncation=2"),
    ((model, out, "--projection-steps=0"), "--projection-steps=0"),
    ((model, out, "--width=6"), "multiple of 4"),
    ((model, out, "--width=8"), "settled by this model's training"),
    ((model, out, "--fov=12"), "settled by this model's training"),
    ((model, out, f"--gan={other}"), "model of another method"),
    ((f"--model={gan}", out, f"--gan={gan}"), "is a StyleGAN2 already"),
    ((f"--model={other}", out), "lift needs one of gan2shape or stylegan2"),
    ((f"--model={tmp_path / 'absent'}", out), "no such model"),
    ((model, out, "--background=green"), "background"),
    ((model, out, "--mesh", "stp"), "mesh"),
  ):
    assert words in refused(capsys, "lift", *arguments), arguments
    assert sorted(tmp_path.rglob("*")) == before, arguments


def test_help_has_an_example(capsys):
  code, said, _ = run(capsys, "lift", "--help")
  assert code == 0
  assert "shapegan lift --model=" in said
