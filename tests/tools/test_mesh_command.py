"""`shapegan mesh` on fields that are known: it writes their surface, in the world's frame, or nothing."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny

from shapegan_jax import UserError
from shapegan_jax.meshing.extraction import Extractor
from shapegan_jax.meshing.files import screen_to_linear
from shapegan_jax.methods.volume_gan.cameras import PatchCameraConfig
from shapegan_jax.methods.volume_gan.generators import SirenGenerator
from shapegan_jax.model import Model
from shapegan_jax.tools import cli
from shapegan_jax.tools.mesh import mesh
from shapegan_jax.tools.shared import instances
from shapegan_jax.types import FieldSamples, Lights

pytest.importorskip("skimage")
trimesh = pytest.importorskip("trimesh")

AXES = (0.05, 0.09, 0.07)
BUMP = (0.03, 0.05, 0.05)  # where a head would have its left brow
SHARPNESS = 3000.0  # per world unit
CELLS = 32


def distance(points, xp=np):
  """How deep a point is inside the ellipsoid or the bump on it; roughly, in world units."""
  x, y, z = (points[..., k] for k in range(3))
  ellipsoid = (1 - xp.sqrt((x / AXES[0]) ** 2 + (y / AXES[1]) ** 2 + (z / AXES[2]) ** 2)) * 0.07
  bump = 0.02 - xp.sqrt((x - BUMP[0]) ** 2 + (y - BUMP[1]) ** 2 + (z - BUMP[2]) ** 2)
  return xp.maximum(ellipsoid, bump)


class Head(SirenGenerator):
  """That shape, coloured by position; at its sides floats a slab, as fields have where no camera looks."""

  def field_fn(self, params, codes, light):
    def field(points, viewdirs):
      x, y, z = (jnp.abs(points[..., k] - (0.1, 0, 0)[k]) for k in range(3))
      slab = jnp.minimum(0.015 - x, 0.05 - jnp.maximum(y, z))
      raw = SHARPNESS * jnp.maximum(distance(points, jnp), slab)
      return FieldSamples(raw=raw, color=points / 0.24 + 0.5)

    return field


class LitHead(SirenGenerator):
  """That shape in one colour, which is that of its light."""

  def field_fn(self, params, codes, light):
    def field(points, viewdirs):
      # Without a light, as where only the shape is asked for, black.
      color = jnp.zeros(3) if light is None else jnp.stack([light.ambient, light.diffuse, 0.5])
      return FieldSamples(SHARPNESS * distance(points, jnp), jnp.broadcast_to(color, points.shape))

    return field


def head(name, kind=Head) -> Model:
  model = tiny(name)
  method = model.method
  generator = kind(method.generator.mapping, method.generator.field)
  return Model(dataclasses.replace(method, generator=generator), model.params, model.config)


@pytest.fixture(scope="module")
def models():
  return {name: head(name) for name in ("pigan", "gof")} | {"shadegan": head("shadegan", LitHead)}


@pytest.fixture
def shapegan(models, monkeypatch, tmp_path):
  monkeypatch.setattr("shapegan_jax.model.load", lambda name: models[name])
  monkeypatch.setattr("shapegan_jax.meshing.extraction._LOOK", 24)  # the level need not be the best
  monkeypatch.chdir(tmp_path)
  return lambda *arguments, model="pigan": cli._run(
    mesh, "mesh", [f"--model={model}", f"--resolution={CELLS}", *arguments]
  )


def read(path):
  return trimesh.load(path, force="mesh", process=False)


def colors_of(path):
  part = next(iter(trimesh.load(path, process=False).geometry.values()))
  return part.visual.vertex_attributes["color"]


@pytest.mark.parametrize("model", ["pigan", "gof"])
def test_the_mesh_is_the_surface_of_the_field(shapegan, tmp_path, capsys, model):
  shapegan("--output=head.glb", model=model)
  said, found = capsys.readouterr().out, read("head.glb")
  assert {path.name for path in tmp_path.iterdir()} == {"head.glb", "head.png"}
  assert found.is_watertight
  assert "the largest of 2 parts" in said
  # The level is that of the density where light is half gone, or the occupancy's 0: never deep inside.
  level = float(said.split("level ")[1].split()[0])
  assert "automatic" in said
  assert level == 0 if model == "gof" else 0 < level < 100
  voxel = 0.24 / CELLS
  off = np.abs(distance(found.vertices) - level / SHARPNESS)
  assert off.max() < voxel
  assert off.mean() < voxel / 4
  # World frame: tallest along y; the bump is to +x, +y, +z and nowhere else.
  low, high = found.bounds
  assert np.argmax(high - low) == 1
  height = distance(found.vertices * [[[1, 1, 1]], [[-1, 1, 1]], [[1, -1, 1]], [[1, 1, -1]]])
  assert (np.abs(height - level / SHARPNESS).max(-1) > voxel).tolist() == [False, True, True, True]
  # Colours are those of the place, as linear light. A density's come from a little below.
  depth = 1.5 / level if level else 0
  wanted = screen_to_linear(found.vertices / 0.24 + 0.5)
  assert np.abs(colors_of("head.glb") - wanted).max() < (2 * depth / 0.24 + 1e-3)
  picture = np.asarray(Image.open("head.png"))
  assert picture.std() > 20


def test_a_level_of_the_field_s_own_unit(shapegan, capsys):
  shapegan("--output=head.stl", "--level=60")
  assert "level 60 (given; density per world unit" in capsys.readouterr().out
  assert np.abs(distance(read("head.stl").vertices) - 60 / SHARPNESS).mean() < 0.24 / CELLS / 4
  with pytest.raises(UserError, match=r"--level=500: outside the field's range, -\d+.* to 1\d\d.* \(density"):
    shapegan("--output=none.ply", "--level=500")
  with pytest.raises(UserError, match=r"--level=-1e\+09: outside .* \(occupancy logit\); choose one between"):
    shapegan("--output=none.ply", "--level=-1e9", model="gof")


def test_all_components_and_one_file_for_each_seed(shapegan, tmp_path):
  shapegan("--output=out/head.ply", "--seeds", "0", "3", "--all-components")
  names = {f"head-seed-{seed}.{ending}" for seed in (0, 3) for ending in ("ply", "png")}
  assert {path.name for path in (tmp_path / "out").iterdir()} == names
  both = read("out/head-seed-3.ply")
  assert both.bounds[1, 0] > 0.1
  assert len(both.split()) == 2


def test_a_texture_says_what_the_vertices_say(shapegan, capsys):
  shapegan("--output=head.glb", "--texture", "--texture-size=128", model="gof")
  found = read("head.glb")
  picture = np.asarray(found.visual.material.baseColorTexture)[..., :3] / 255
  uv = found.visual.uv * [1, -1] + [0, 1]  # trimesh turns them over
  column, row = np.clip((uv * 128).astype(int), 0, 127).T
  assert np.abs(picture[row, column] - (found.vertices / 0.24 + 0.5)).max() < 0.04
  merged = trimesh.Trimesh(found.vertices, found.faces)
  assert merged.is_watertight


def test_each_mesh_has_the_colours_of_its_own_light(shapegan, models):
  model, two = models["shadegan"], instances.from_seeds(models["shadegan"], (0, 1))
  lights = Lights(jnp.array([[-0.6, 0.4, 0.0, 0.0], [0.8, -0.2, 0.3, 0.1]]))
  two = dataclasses.replace(two, latents=model.codes(two.latents), lights=lights)
  instances.save_codes(Path("two.safetensors"), model, two)
  shapegan("--codes=two.safetensors", "--output=lit.glb", "--texture", "--texture-size=64", model="shadegan")
  shapegan("--codes=two.safetensors", "--output=plain.glb", model="shadegan")
  for seed, color in ((0, [0.2, 0.7, 0.5]), (1, [0.9, 0.4, 0.5])):
    found = np.asarray(colors_of(f"plain-seed-{seed}.glb"))[:, :3]
    np.testing.assert_allclose(found, np.broadcast_to(screen_to_linear(np.array(color)), found.shape), atol=2e-3)
    picture = np.asarray(read(f"lit-seed-{seed}.glb").visual.material.baseColorTexture)[..., :3]
    np.testing.assert_allclose(picture / 255, np.broadcast_to(color, picture.shape), atol=0.01)


def test_colours_of_a_soft_field_are_those_that_show():
  """A ramp of density from x = 0 inwards, red where light is stopped and blue before: red is what is seen."""
  model = head("pigan")

  class Ramp(SirenGenerator):
    def field_fn(self, params, codes, light):
      def field(points, viewdirs):
        red = (points[..., :1] > 0.02).astype(points.dtype)
        return FieldSamples(2000 * points[..., 0], jnp.concatenate([red, 0 * red, 1 - red], -1))

      return field

  method = dataclasses.replace(
    model.method, generator=Ramp(model.method.generator.mapping, model.method.generator.field)
  )
  model = Model(method, model.params, model.config)
  codes = model.codes(instances.from_seeds(model, (0,)).latents)
  points, normals = np.float32([[0.013, 0, 0]]), np.float32([[-1, 0, 0]])
  seen = Extractor(model).surface_colors(codes, None, points, normals, span=0.057)
  # Transmittance from 0.013 to 0.02 is exp(-1000 (0.02^2 - 0.013^2)) = 0.79; all is stopped at 0.07.
  np.testing.assert_allclose(seen, [[0.79, 0, 0.21]], atol=0.08)
  at_once = Extractor(model).surface_colors(codes, None, points, normals, span=1e-6)
  np.testing.assert_allclose(at_once, [[0, 0, 1]], atol=1e-6)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--output=head.gltf"], "must end in .glb, .ply, .obj or .stl"),
    (["--output=head.ply", "--texture"], "only .glb can hold a texture"),
    (["--output=head.glb", "--resolution=8"], "--resolution=8: must be 16 to 1024"),
    (["--output=head.glb", "--texture-size=1"], "--texture-size=1: must be 64 to 8192"),
    (["--output=head.glb", "--truncation=2"], "--truncation=2"),
    (["--output=head.glb", "--codes=none.safetensors"], "no such file"),
    (["--output=head.glb", "--level=abc"], "['abc']; see"),
  ],
)
def test_mistakes_are_one_line_and_leave_nothing(shapegan, tmp_path, arguments, said):
  with pytest.raises(UserError, match=re.escape(said)) as caught:
    shapegan(*arguments)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 200
  assert not list(tmp_path.iterdir())


def test_an_empty_field_and_a_missing_library_are_errors(shapegan, models, monkeypatch, tmp_path):
  monkeypatch.setattr(sys.modules[__name__], "SHARPNESS", 0.0)
  models["empty"] = head("gof")
  with pytest.raises(UserError, match=r"no surface; the field is -?0 to -?0"):
    shapegan("--output=head.glb", model="empty")
  monkeypatch.setitem(sys.modules, "trimesh", None)
  with pytest.raises(UserError, match=r"pip install -e '.\[mesh\]'"):
    shapegan("--output=head.obj")
  monkeypatch.setitem(sys.modules, "skimage", None)
  with pytest.raises(UserError, match=r"pip install -e '.\[mesh\]'"):
    shapegan("--output=head.glb")
  assert not list(tmp_path.iterdir())


def test_the_volume_holds_what_the_cameras_see(models):
  model = models["pigan"]
  np.testing.assert_allclose(Extractor(model).half, 0.12)
  cameras = PatchCameraConfig(radius=9.5, radius_max=10.5, near=7.5, far=12.5)
  further = Model(dataclasses.replace(model.method, cameras=cameras), model.params, model.config)
  assert Extractor(further).half == 3.0
