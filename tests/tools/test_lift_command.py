"""`shapegan lift`: its output files, that a stopped run is resumed, and one-line error messages."""

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
from shapegan_jax.methods.gan2shape import instance_training
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.model import Model, load
from shapegan_jax.parallel import StopSignals
from shapegan_jax.tools import lift as lift_command
from shapegan_jax.tools.lifting import files as lift_files
from shapegan_jax.tools.lifting import inputs as lift_inputs
from shapegan_jax.tools.lifting import run as lift_run

SIZE = 8
SCHEDULE = ("--schedule", "2", "3", "2", "--symmetry=none")


_load = functools.cache(load)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
  """Loading a model traces all of it, which is slow."""
  monkeypatch.setattr("shapegan_jax.model.load", lambda path: _load(str(path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def gan(folder):
  """An untrained StyleGAN2 of 8 pixels."""
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
  """An untrained GAN2Shape model with shared networks."""
  network = {
    name: value for name, value in _load(str(gan)).config.items() if name in ("mapping", "synthesis", "discriminator")
  }
  config = {
    "method": "gan2shape",
    "stages": {"resolution": SIZE, "samples": 2, "pool": 2, "flip_albedo": (False,), "flip_joint": (True,)},
    "instances": {"count": 2},
    "gan": {"model": str(gan), "network": network},
    "networks": {"width": 4, "bottleneck": 8, "encoder_width": 4, "offset_width": 4},
    "relief": {"supersample": 1},
    "views": {"estimate": True},
  }
  method = Gan2Shape.from_config(config)
  networks = jax.jit(method.model.init)(jax.random.key(1))
  images = np.random.default_rng(0).integers(0, 255, (2, SIZE, SIZE, 3), np.uint8)
  path = folder / "joint.safetensors"
  Model(method, {"networks": networks, "pictures": images}, config).save(path)
  return path


@pytest.fixture(scope="module")
def photographs(folder):
  """Two images with masks, and a file that is not an image."""
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
  """A cache of objects with compiled programs, by their settings: several runs of one test share them."""
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
  trainer = compiled(instance_training.InstanceTrainer, lambda config: json.dumps(config, sort_keys=True))
  monkeypatch.setattr(instance_training, "InstanceTrainer", trainer)
  renderer = compiled(lift_run.InstanceRenderer, lambda method, gan, masked: (id(method), masked))
  monkeypatch.setattr(lift_run, "InstanceRenderer", renderer)
  monkeypatch.setattr(lift_run, "Projector", compiled(lift_run.Projector, lambda gan, config: config))


class _Stopping(StopSignals):
  """Stops the run once `asked` was read `calls` times."""

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
  content = json.loads((folder / "lift.json").read_text())
  return {name: content[name] for name in ("depth", "yaw_deg", "pitch_deg", "light", "projection_psnr")} | {
    "last": {name: ends[1] for name, ends in content["losses"]["round 1"].items()}
  }


def test_photographs_are_lifted_and_a_stopped_run_is_resumed(joint, photographs, tmp_path, capsys, quick, monkeypatch):
  arguments = ("lift", f"--model={joint}", f"--input={photographs}", f"--mask={photographs.parent / 'masks'}")
  arguments += (*SCHEDULE, "--batch=2", "--projection-steps=12", "--video=gif", "--mesh", "glb", "obj")
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  code, printed, err = run(capsys, *arguments, f"--output={whole}")
  assert code == 0, err
  assert "skipped" in printed
  assert "broken.png" in printed
  assert "lifting 2 images" in printed
  files = ["lift.json", "mesh.glb", "mesh.obj", "sheet.png", "steps.png"]
  files += [f"{kind}_{how}.gif" for kind in ("relight", "rotate") for how in ("3d", "gan")]
  for name in ("a", "b"):
    assert sorted(path.name for path in (whole / name).iterdir()) == sorted(files)
  assert sorted(path.name for path in (whole / "previews").iterdir()) == ["round_1_encoder.png", "round_1_joint.png"]
  content = json.loads((whole / "a" / "lift.json").read_text())
  assert content["config"]["stages"]["prior"] == 0
  assert content["config"]["views"]["estimate"] is False
  assert np.shape(content["config"]["views"]["covariance"]) == (6, 6)
  assert {"albedo/l1", "encoder/l1", "projection/l1", "joint/l1"} <= set(content["losses"]["round 1"])
  assert 0.9 <= content["depth"]["nearest"] <= content["depth"]["farthest"] <= 1.1
  assert np.linalg.norm(content["light"]["direction"]) == pytest.approx(1, abs=1e-5)
  assert np.asarray(Image.open(whole / "a" / "sheet.png")).shape[1] > 14 * 64
  assert Image.open(whole / "a" / "rotate_gan.gif").n_frames == 8
  # Stopped in the middle and resumed: bitwise the same results as without the stop.
  monkeypatch.setattr(instance_training, "StopSignals", functools.partial(_Stopping, 4))
  code, printed, _ = run(capsys, *arguments, f"--output={parts}")
  assert code == 0
  assert "stopped; run the same command again to resume" in printed
  assert not (parts / "a").exists()
  assert [path.name for path in (parts / "runs" / "0" / "checkpoints").iterdir()] == ["5"]
  monkeypatch.setattr(instance_training, "StopSignals", functools.partial(_Stopping, 10**9))
  projected = []
  monkeypatch.setattr(lift_inputs, "prepare", lambda *unused, **unused_too: projected.append(1))
  code, _, err = run(capsys, *arguments, f"--output={parts}")
  assert code == 0, err
  assert not projected, "photographs must not be projected again"
  for name in ("a", "b"):
    assert numbers(parts / name) == numbers(whole / name)
  assert numbers(whole / "a") != numbers(whole / "b")
  # A run with other settings is refused.
  code, _, err = run(capsys, *arguments, f"--output={parts}", "--truncation=1", "--background=plain")
  assert code == 2
  assert "made with another config" in err
  assert err.count("\n") == 1


def test_seeds_are_random_images_of_the_generator(joint, gan):
  inputs = lift_inputs.inputs_from_seeds((0, 7))
  method, frozen = _load(str(joint)).method, FrozenGan.of(_load(str(gan)))
  prepared = lift_inputs.prepare(inputs, method, frozen, list, truncation=0.7, progress=lambda done: None)
  alone = lift_inputs.prepare(inputs[1:], method, frozen, list, truncation=0.7, progress=lambda done: None)
  assert prepared.psnr is None
  np.testing.assert_allclose(prepared.instances.image[1:], alone.instances.image, atol=1e-5)
  np.testing.assert_allclose(prepared.instances.image, frozen.image(prepared.instances.latent), atol=1e-5)
  assert not np.allclose(prepared.instances.latent[0], prepared.instances.latent[1])


def test_a_stylegan2_starts_from_the_ellipsoid(gan):
  networks, images, config, frozen = lift_command.open_generator(str(gan), _load(str(gan)))
  assert (networks, images) == (None, None)
  schedule = lift_command.schedule_of(("full",), None, pretrained=False)
  method = Gan2Shape.from_config(instance_training.instance_config(config, schedule, pretrained=False, symmetry="none"))
  assert [stage.mode for _, stage in method.stages[:5]] == ["prior", "albedo", "encoder", "projection", "joint"]
  assert (method.table.prior, method.table.total_steps()) == (1000, 1000 + 1300 + 2200 + 4 * 100 + 1800)
  assert (method.model.resolution, method.model.networks.width) == (SIZE, 64)
  assert not any(stage.flip for _, stage in method.stages)
  # Jointly trained networks have the published schedule of faces.
  schedule = lift_command.schedule_of(("full",), None, pretrained=True)
  method = Gan2Shape.from_config(instance_training.instance_config(config, schedule, pretrained=True))
  assert method.table.total_steps() == 1200 + 2100 + 4 * 100 + 1300
  assert [stage.flip for _, stage in method.stages if stage.mode == "joint"] == [True, False, False, False]
  faster = {**config, "optimizers": {**config.get("optimizers", {}), "learning_rate": 1e-2}}
  method = Gan2Shape.from_config(instance_training.instance_config(faster, schedule, pretrained=True))
  assert method.optimizer.learning_rate == 1e-4, "the rate of joint training is not used for instance-specific networks"
  six = lift_command.schedule_of(("5", "6", "7", "1", "2", "3"), 3, pretrained=True)
  assert (six.rounds, six.albedo, six.encoder, six.joint) == (3, (5, 1), (6, 2), (7, 3))
  assert frozen.resolution == SIZE


def test_a_relief_becomes_a_mesh_in_the_world_frame(rng):
  size = 16
  camera = ReliefCamera(size, 10.0)
  row, column = np.mgrid[:size, :size]
  depth = (1 - 0.002 * column + 0.001 * row).astype(np.float32)  # nearer to the right, farther below
  texture = rng.integers(0, 255, (size, size, 3), np.uint8)
  mask = np.zeros((size, size), bool)
  mask[3:9, 2:12] = True
  mesh = relief_mesh(camera, depth, texture, mask)
  assert (len(mesh.vertices), len(mesh.faces)) == (6 * 10, 2 * 5 * 9)
  # Counter-clockwise from the front: normals point along +z, here also to the left and up.
  assert (mesh.normals[:, 2] > 0.5).all()
  assert (mesh.normals[:, 0] < 0).all()
  x, y, z = mesh.vertices.T
  across, down = (mesh.uvs * size - 0.5).round().astype(int).T
  np.testing.assert_allclose(z, 1 - depth[down, across], atol=1e-6)
  slope = np.tan(np.radians(5.0))
  np.testing.assert_allclose(x, (2 * across / (size - 1) - 1) * slope * (1 - z), atol=1e-6)
  np.testing.assert_allclose(y, -(2 * down / (size - 1) - 1) * slope * (1 - z), atol=1e-6)
  np.testing.assert_allclose(mesh.colors * 255, texture[down, across], atol=1e-3)


def test_mistakes_are_reported_in_one_line(joint, gan, photographs, tmp_path, capsys):
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
    ((model, out, "--width=8"), "fixed by this model's training"),
    ((model, out, "--fov=12"), "fixed by this model's training"),
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
  code, printed, _ = run(capsys, "lift", "--help")
  assert code == 0
  assert "shapegan lift --model=" in printed
