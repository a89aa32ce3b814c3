"""Level sets become closed, outward, accurate meshes, and files that other programs read."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from shapegan_jax import UserError
from shapegan_jax.meshing.atlases import unwrap
from shapegan_jax.meshing.files import ENDINGS, glb_bytes, screen_to_linear, write_mesh
from shapegan_jax.meshing.meshes import (
  Grid,
  Mesh,
  dense_samples,
  enclosed_volume,
  largest_component,
  level_set,
  outward_normals,
  samples_near_level,
  vertex_normals,
  visible_level,
)

pytest.importorskip("skimage")
trimesh = pytest.importorskip("trimesh")

GRID = Grid(0.12, 30)
CENTRE, AXES = np.array([0.01, -0.015, 0.02]), np.array([0.06, 0.085, 0.07])
COLORS = lambda points: (np.asarray(points) / 0.24 + 0.5).astype(np.float32)  # noqa: E731


def ellipsoid(points):
  """0 on the surface, 1 at the centre."""
  return (1 - np.linalg.norm((points - CENTRE) / AXES, axis=-1)).astype(np.float32)


def ellipsoid_mesh(grid=GRID):
  mesh = level_set(dense_samples(ellipsoid, grid, chunk=1000), grid, 0.0)
  return dataclasses.replace(mesh, normals=vertex_normals(mesh).astype(np.float32), colors=COLORS(mesh.vertices))


def loaded(mesh):
  return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def test_a_grid_is_centred_and_x_comes_first():
  grid = Grid(1.0, 4)
  values = dense_samples(lambda points: points @ np.float32([1, 10, 100]), grid, chunk=7)
  x, y, z = np.meshgrid(*[np.array([-0.75, -0.25, 0.25, 0.75])] * 3, indexing="ij")
  np.testing.assert_allclose(values, x + 10 * y + 100 * z, rtol=1e-6)


def test_the_ellipsoid_is_closed_outward_and_accurate():
  mesh = ellipsoid_mesh()
  checked = loaded(mesh)
  assert checked.is_watertight
  assert checked.is_winding_consistent
  true = 4 / 3 * np.pi * AXES.prod()
  assert abs(enclosed_volume(mesh) / true - 1) < 0.02
  np.testing.assert_allclose(checked.volume, enclosed_volume(mesh), rtol=1e-5)
  # Chamfer distance, both ways, to points spread on the true surface.
  theta, phi = np.meshgrid(np.linspace(0, np.pi, 200), np.linspace(0, 2 * np.pi, 200))
  sphere = np.stack([np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], -1).reshape(-1, 3)
  surface = CENTRE + AXES * sphere
  there, back = cKDTree(surface).query(mesh.vertices)[0], cKDTree(mesh.vertices).query(surface)[0]
  assert max(there.mean(), back.mean()) < GRID.spacing / 2
  assert max(there.max(), back.max()) < GRID.spacing
  outward = (mesh.vertices - CENTRE) / AXES**2
  outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
  assert ((mesh.normals * outward).sum(-1) > 0.97).all()


def test_samples_on_the_level_leave_no_triangle_without_area():
  grid = Grid(1.0, 9)  # a plane and a diamond through the samples
  for field in (lambda p: 0.5 - np.abs(p[:, 0]), lambda p: 8 / 9 - np.abs(p).sum(-1)):
    checked = loaded(level_set(dense_samples(field, grid, chunk=100), grid, 0.0))
    assert checked.is_watertight
    assert checked.area_faces.min() > 0


def test_an_inside_that_reaches_the_border_is_closed_there():
  grid = Grid(1.0, 10)
  mesh = level_set(dense_samples(lambda points: 0.25 - points[:, 1], grid, chunk=1000), grid, 0.0)
  assert loaded(mesh).is_watertight
  np.testing.assert_allclose(np.abs(mesh.vertices).max(), 1.0, rtol=1e-6)
  # A block of 2 x 1.25 x 2 whose edges are cut off by half a cell.
  assert 0.93 < enclosed_volume(mesh) / 5 <= 1
  normals = outward_normals(mesh, np.broadcast_to(np.float32([0, -1, 0]), mesh.vertices.shape), half=1.0, spacing=0.2)
  top = (mesh.vertices[:, 1] > 0.2) & (np.abs(mesh.vertices[:, [0, 2]]).max(-1) < 0.8)
  np.testing.assert_allclose(normals[top], [[0, 1, 0]] * top.sum(), atol=1e-6)
  bottom = (mesh.vertices[:, 1] < -0.99) & (np.abs(mesh.vertices[:, [0, 2]]).max(-1) < 0.8)
  np.testing.assert_allclose(normals[bottom], [[0, -1, 0]] * bottom.sum(), atol=1e-6)


@pytest.mark.parametrize("size", [38, 40])
def test_blocks_near_the_level_give_the_same_surface(size):
  # A ball with a long spike that slips between the middles of the blocks: only following the surface finds it.
  def field(points):
    seen.append(len(points))
    ball = 0.03 - np.linalg.norm(points + [0, 0, 0.07], axis=-1)
    spike = 0.008 - np.maximum(np.linalg.norm(points[:, :2], axis=-1), np.abs(points[:, 2] - 0.02) - 0.08)
    return np.maximum(ball, spike).astype(np.float32)

  grid, seen = Grid(0.12, size), []
  dense = level_set(dense_samples(field, grid, chunk=4096), grid, 0.0)
  seen.clear()
  sparse = level_set(samples_near_level(field, grid, 0.0, block=5, chunk=500), grid, 0.0)
  np.testing.assert_array_equal(sparse.vertices, dense.vertices)
  np.testing.assert_array_equal(sparse.faces, dense.faces)
  assert set(seen) == {500}  # one shape for a compiler
  assert sum(seen) < size**3 / 2
  assert dense.vertices[:, 2].max() > 0.1


def test_progress_sees_every_chunk():
  told = []

  def report(items, total):
    told.append(total)
    yield from items

  dense_samples(ellipsoid, Grid(0.12, 10), chunk=300, report=report)
  assert told == [4]


def test_the_visible_level_is_half_of_what_stops_half_of_the_light():
  n, side = 200, 2.0
  z = (np.arange(n) + 0.5) * side / n - 1

  def columns(density):
    return np.broadcast_to(density.astype(np.float32), (3, 3, n))

  # A wall of one density: half of it. A ramp of slope s from z = 0 on: half the light is gone at depth sqrt(2 ln2 / s).
  np.testing.assert_allclose(visible_level(columns(np.where(z < 0.3, 70.0, -9.0)), side / n), 35)
  slope = 200.0
  found = visible_level(columns(-slope * z), side / n)
  np.testing.assert_allclose(found, np.sqrt(2 * np.log(2) * slope) / 2, atol=slope * side / n / 2)
  # The unit of length is only a unit.
  np.testing.assert_allclose(visible_level(columns(-slope * z) / 10, side / n * 10), found / 10, rtol=1e-6)
  # From the front: what hides behind has no say. And mist that stops little has a thickest part.
  hidden = np.where(z < -0.5, 900.0, np.where(z < 0.3, 70.0, 0.0))
  np.testing.assert_allclose(visible_level(columns(hidden), side / n), 35)
  np.testing.assert_allclose(visible_level(columns(np.where(np.abs(z) < 0.1, 0.4, 0.1)), side / n), 0.2)
  with pytest.raises(UserError, match="no density"):
    visible_level(columns(-np.ones(n)), side / n)


def test_a_level_outside_the_range_names_the_range():
  values = dense_samples(ellipsoid, GRID, chunk=1000)
  for level in (-9.0, 1.5, np.nan):
    with pytest.raises(UserError, match=r"outside the field's range, -\d.\d+ to 0.9\d+; choose one between"):
      level_set(values, GRID, level)
  values[3, 3, 3] = np.nan
  with pytest.raises(UserError, match="non-finite"):
    level_set(values, GRID, 0.0)


def test_the_largest_part_is_the_one_that_encloses_most():
  def field(points):  # a hollow ball, and beside it a slab of more surface than volume
    ball = 0.06 - np.linalg.norm(points + [0.05, 0, 0], axis=-1)
    hollow = np.linalg.norm(points + [0.05, 0, 0], axis=-1) - 0.02
    slab = np.minimum(0.008 - np.abs(points[:, 0] - 0.08), 0.11 - np.abs(points[:, 1:]).max(-1))
    return np.maximum(np.minimum(ball, hollow), slab).astype(np.float32)

  mesh = level_set(dense_samples(field, Grid(0.12, 40), chunk=4096), Grid(0.12, 40), 0.0)
  mesh = dataclasses.replace(mesh, colors=COLORS(mesh.vertices))
  largest, count = largest_component(mesh)
  assert count == 3
  assert largest.vertices[:, 0].max() < 0.02
  checked = loaded(largest)
  assert checked.is_watertight
  assert abs(checked.volume / (4 / 3 * np.pi * 0.06**3) - 1) < 0.02  # the cavity is gone too
  np.testing.assert_array_equal(largest.colors, COLORS(largest.vertices))


def test_normals_follow_the_field_where_it_can_be_trusted():
  mesh = ellipsoid_mesh()
  out = (mesh.vertices - CENTRE) / AXES**2
  gradient = (-7 * out).astype(np.float32)
  gradient[0], gradient[1] = 0, -gradient[1]  # no direction; noise that points inwards
  normals = outward_normals(mesh, gradient, half=0.12, spacing=GRID.spacing)
  np.testing.assert_allclose(normals[2:], (out / np.linalg.norm(out, axis=-1, keepdims=True))[2:], atol=1e-5)
  np.testing.assert_allclose(normals[:2], vertex_normals(mesh)[:2], atol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_loads(ending, tmp_path):
  mesh, path = ellipsoid_mesh(), tmp_path / f"head{ending}"
  write_mesh(path, mesh)
  read = trimesh.load(path, force="mesh", process=ending == ".stl")  # STL repeats every corner
  assert read.is_watertight
  assert read.is_winding_consistent
  np.testing.assert_allclose(read.volume, enclosed_volume(mesh), rtol=1e-4)
  np.testing.assert_allclose(read.bounds, [mesh.vertices.min(0), mesh.vertices.max(0)], atol=1e-6)
  if ending == ".stl":
    return
  which = cKDTree(mesh.vertices).query(read.vertices)[1]
  if ending == ".glb":
    part = next(iter(trimesh.load(path, process=False).geometry.values()))  # joining parts drops these
    colors, wanted = part.visual.vertex_attributes["color"], screen_to_linear(mesh.colors)
  else:
    colors, wanted = read.visual.vertex_colors[:, :3] / 255, mesh.colors
  assert np.abs(colors - wanted[which]).max() <= 0.51 / 255
  np.testing.assert_allclose(written_normals(path), mesh.normals, atol=1e-6)


def written_normals(path):
  """Read without trimesh, which may make its own."""
  data = path.read_bytes()
  if path.suffix == ".obj":
    return np.array([line.split()[1:] for line in data.decode().splitlines() if line.startswith("vn ")], float)
  if path.suffix == ".ply":
    row = np.dtype([("xyz", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 4)])
    header, count = data.index(b"end_header\n") + 11, int(data.split(b"element vertex ")[1].split()[0])
    return np.frombuffer(data, row, count, header)["normal"]
  length = int.from_bytes(data[12:16], "little")
  document = json.loads(data[20 : 20 + length])
  accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]]
  start = 28 + length + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
  return np.frombuffer(data, "<f4", 3 * accessor["count"], start).reshape(-1, 3)


def test_screen_colours_as_light():
  np.testing.assert_allclose(
    screen_to_linear(np.array([0, 0.02, 0.5, 1, 2])), [0, 0.02 / 12.92, 0.214041, 1, 1], atol=1e-6
  )


def test_charts_keep_the_shape_cover_little_twice_and_are_not_mirrored():
  size, mesh = 128, ellipsoid_mesh()
  flat = unwrap(mesh, size)
  np.testing.assert_allclose(enclosed_volume(flat), enclosed_volume(mesh), rtol=1e-6)
  np.testing.assert_array_equal(flat.colors, COLORS(flat.vertices))
  assert flat.uvs.min() > 1 / size
  assert flat.uvs.max() < 1 - 1 / size
  a, b, c = (flat.uvs[flat.faces[:, k]] * [1, -1] for k in range(3))  # up is up
  (ux, uy), (vx, vy) = (b - a).T, (c - a).T
  area = (ux * vy - uy * vx) / 2
  assert (area > 0).all()
  # Texels per area are nearly even: a chart shows no triangle at less than a third of its size.
  solid = np.linalg.norm(
    np.cross(*(flat.vertices[flat.faces[:, k]] - flat.vertices[flat.faces[:, 0]] for k in (1, 2))), axis=-1
  )
  density = area / solid
  assert density.min() > 0.29 * density.max()
  # No two triangles share a texel: the middles of all triangles are in no other.
  middle = (a + b + c) / 3
  tree = cKDTree(middle)
  for i, near in enumerate(tree.query(middle, 12)[1]):
    ab, ac, ap = b[near] - a[near], c[near] - a[near], middle[i] - a[near]
    whole = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    s = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / whole
    t = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / whole
    inside = (s > 1e-3) & (t > 1e-3) & (s + t < 1 - 1e-3)
    assert set(near[inside]) == {i}


def test_a_missing_library_names_the_command_that_installs_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "skimage", None)
  with pytest.raises(UserError, match=r"scikit-image is not installed; run pip install -e '.\[mesh\]'"):
    ellipsoid_mesh()
  monkeypatch.setitem(sys.modules, "trimesh", None)
  with pytest.raises(UserError, match=r"trimesh is not installed; run pip install -e '.\[mesh\]'"):
    write_mesh(Path("head.ply"), Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32)))


def test_glb_passes_the_validator_of_khronos(tmp_path):
  """Needs node and `npm install gltf-validator` in the folder that GLTF_VALIDATOR names (or in this one)."""
  node, home = shutil.which("node"), Path(os.environ.get("GLTF_VALIDATOR", "."))
  if node is None or not (home / "node_modules" / "gltf-validator").is_dir():
    pytest.skip("node or its package gltf-validator is missing")
  plain = ellipsoid_mesh()
  texture = np.full((64, 64, 3), 128, np.uint8)
  for name, mesh in {
    "coloured": plain,
    "textured": dataclasses.replace(unwrap(plain, 64), texture=texture),
    "bare": Mesh(plain.vertices, plain.faces),
  }.items():
    path = tmp_path / f"{name}.glb"
    path.write_bytes(glb_bytes(mesh, name=name, notes={"level": 0.0}))
    program = (
      "require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))"
      ".then(report => console.log(JSON.stringify(report)))"
    )
    said = subprocess.run([node, "-e", program, str(path)], cwd=home, capture_output=True, text=True, check=True)
    report = json.loads(said.stdout)
    assert report["issues"]["messages"] == []
    assert report["info"]["totalTriangleCount"] == len(mesh.faces)
    assert report["info"]["hasTextures"] == (name == "textured")
