"""The embedded data set obeys its own physics, its stated distributions, and survives interruption and company."""

import json
import os
import pickle
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.data import heads, heads_albedo, heads_hair, heads_mesh, heads_model, heads_render, heads_workers
from shapegan_jax.errors import UserError
from shapegan_jax.geometry import cameras, pixels, triangles

TINY = {"train": 5, "validation": 1, "test": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return heads.prepare(64, TINY, cache_dir=tmp_path_factory.mktemp("cache"), num_workers=0, progress=False)


def lambertian(example: dict, albedo: np.ndarray) -> np.ndarray:
  l0, l1, lx, ly = example["light"]
  towards = np.array([lx, ly, 1]) / np.sqrt(lx**2 + ly**2 + 1)
  return albedo * (l0 / 2 + 0.5 + (l1 / 2 + 0.5) * np.maximum(0, example["normals"] @ towards))[..., None]


# --- physics


def test_image_is_albedo_times_shading_on_every_pixel_without_supersampling():
  for i in range(4):
    example = heads_render.render_example("train", i, 48, supersampling=1)
    error = np.abs(lambertian(example, example["albedo"]) - example["image"])
    assert error[example["mask"]].max() < 1 / 255
    assert (example["image"][~example["mask"]] == heads_render.BACKGROUND).all()
    assert example["image"].min() >= 0
    assert example["image"].max() <= 1


def near_edges(example: dict, reach: int) -> np.ndarray:
  """Pixels within `reach` of a jump of depth (steeper than 45 degrees four times over) or of albedo (above 0.15)."""
  size = len(example["mask"])
  step = 2 * np.tan(np.radians(heads_model.FOV_DEG / 2)) / (size - 1)
  depth, albedo = np.where(example["mask"], example["depth"], 9.0), example["albedo"] / 255
  edge = np.zeros_like(example["mask"])
  for axis in (0, 1):
    jump = np.abs(np.diff(depth, axis=axis)) > 4 * step
    jump |= np.abs(np.diff(albedo, axis=axis)).max(-1) > 0.15
    one, other = (slice(1, None), slice(None)), (slice(None, -1), slice(None))
    for sides in (one, other):
      edge[sides if axis == 0 else sides[::-1]] |= jump
  padded = np.pad(edge, reach)
  span = range(2 * reach + 1)
  return np.any([padded[y : y + size, x : x + size] for y in span for x in span], axis=0)


def test_stored_examples_obey_the_equation_away_from_edges(tiny):
  source = heads.HeadsSource(tiny, "train")
  errors = []
  for i in range(len(source)):
    example = source[i]
    away = example["mask"] & ~near_edges(example, 2)
    errors.append(np.abs(lambertian(example, example["albedo"] / 255) - example["image"] / 255).max(-1)[away])
  errors = np.concatenate(errors)
  assert len(errors) > 1000
  assert np.mean(errors <= 1.05 / 255) >= 0.99  # both images are rounded to 8 bits: 0.5 + 0.5 steps, and the normals


def test_normals_agree_with_finite_differences_of_depth():
  size = 256
  for i in range(2):
    example = heads_render.render_example("train", i, size, supersampling=1)
    across = np.tan(np.radians(heads_model.FOV_DEG / 2)) * np.linspace(-1, 1, size)
    depth = example["depth"]
    in_camera = np.stack([across * depth, across[::-1, None] * depth, heads_model.CAMERA_RADIUS - depth], -1)
    points = in_camera @ triangles.camera_rotation(float(example["yaw"]), float(example["pitch"]))
    normals = np.cross(points[1:-1, 2:] - points[1:-1, :-2], points[:-2, 1:-1] - points[2:, 1:-1])
    mask = example["mask"]
    inside = mask[1:-1, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2] & mask[:-2, 1:-1] & mask[2:, 1:-1]
    cosine = (heads_mesh.unit(normals[inside]) * example["normals"][1:-1, 1:-1][inside]).sum(-1)
    assert np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) < 3


def test_camera_and_pixels_follow_the_package_convention(rng):
  yaw, pitch = 0.4, -0.2
  camera = cameras.orbit_cameras(jnp.float32(yaw), jnp.float32(pitch), fov=np.radians(heads_model.FOV_DEG).item())
  np.testing.assert_allclose(triangles.camera_rotation(yaw, pitch), camera.cam2world[:3, :3].T, atol=1e-6)
  # A point on the ray of pixel (row 3, column 5) of a 9 x 7 grid, one small triangle around it: only that pixel is hit.
  height, width = 9, 7
  x, y = np.asarray(pixels.pixel_grid(height, width))[3, 5]
  ray = np.array([x, y, -1 / np.tan(np.radians(heads_model.FOV_DEG / 2))])
  point = (np.asarray(camera.cam2world[:3, :3]) @ (ray / -ray[2] * 0.97)) + np.asarray(camera.cam2world[:3, 3])
  corners = np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0]]) * 1e-3 @ np.asarray(camera.cam2world[:3, :3]).T + point
  projected, depth = triangles.project(corners, yaw, pitch, **heads_model.CAMERA)
  hit = triangles.rasterize(projected, depth, np.array([[0, 1, 2]]), height=height, width=width)
  assert hit.pixels.tolist() == [3 * width + 5]
  np.testing.assert_allclose(hit.depth, 0.97, atol=1e-6)


def test_rasterizer_matches_a_loop_over_rays_and_triangles(rng):
  """Reference: Moeller-Trumbore intersection of every ray with every front-facing triangle."""
  points = rng.uniform(-0.1, 0.1, (12, 3))
  faces = rng.permuted(np.tile(np.arange(12), (8, 1)), axis=1)[:, :3]
  projected, depth = triangles.project(points, 0.0, 0.0, **heads_model.CAMERA)
  size, factor = 9, 2
  hit = triangles.rasterize(projected, depth, faces, height=size, width=size, supersampling=factor)
  expected = {}
  for row in range(size * factor):
    for column in range(size * factor):
      x, y = ((k - 0.5) / factor * 2 / (size - 1) - 1 for k in (column, row))
      ray = np.array([x, -y, -1 / np.tan(np.radians(heads_model.FOV_DEG / 2))])
      ray = ray / -ray[2]  # so that the ray's parameter is the depth
      for t, face in enumerate(faces):
        a, b, c = points[face]
        solution = np.linalg.solve(np.stack([b - a, c - a, -ray], 1), np.array([0, 0, 1.0]) - a)
        inside = solution[0] > 0 and solution[1] > 0 and solution[0] + solution[1] < 1
        if inside and np.cross(b - a, c - a) @ ray < 0:
          old = expected.get(row * size * factor + column, (9.0, -1))
          expected[row * size * factor + column] = min(old, (solution[2], t))
  assert len(expected) > 20
  assert hit.pixels.tolist() == sorted(expected)
  np.testing.assert_allclose(hit.depth, [expected[p][0] for p in hit.pixels], rtol=1e-5)
  assert hit.triangles.tolist() == [expected[p][1] for p in hit.pixels]
  np.testing.assert_allclose(hit.weights.sum(1), 1, atol=1e-5)


# --- geometry


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (1.2, -0.6), (2.9, 0.5), (0.3, -1.3)])
def test_the_surface_is_closed_with_no_view_through_it(yaw, pitch):
  """Every ray that enters a closed surface leaves it: front and back faces cover the same pixels."""
  model = heads_model.load_model()
  person = heads_model.sample_person(model, heads_model.stream("test", 3, heads_model.SHAPE_STREAM))
  projected, depth = triangles.project(person.vertices, yaw, pitch, **heads_model.CAMERA)
  outside = triangles.rasterize(projected, depth, model.faces, height=96, width=96)
  inside = triangles.rasterize(projected, depth, model.faces[:, ::-1], height=96, width=96)
  assert len(np.setxor1d(outside.pixels, inside.pixels)) <= 2  # rays along the silhouette, by rounding


def test_heads_fit_the_view_and_the_depth_range():
  model = heads_model.load_model()
  edge = np.tan(np.radians(heads_model.FOV_DEG / 2))
  heights = []
  for i in range(40):
    vertices = heads_model.sample_person(model, heads_model.stream("train", i, 0)).vertices
    assert np.linalg.norm(vertices, axis=1).max() < 0.12  # so 0.88 < depth < 1.12 from every side
    on_image = np.abs(vertices[:, :2]).max(1) / (1 - vertices[:, 2])
    assert on_image.max() < 0.95 * edge
    heights.append(np.ptp(vertices[:, 1]))
  assert 0.8 * edge < np.mean(heights) / 2 < edge
  assert np.std(heights) > 0.003  # people differ


def test_refinement_is_a_conforming_mesh_on_the_same_surface(rng):
  faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])  # a tetrahedron with edges of many lengths
  vertices = rng.normal(size=(4, 3))
  for longest in (0.0, 1.5, 2.0, 9.0):
    fine = heads_mesh.refine(vertices, faces, longest=longest)
    edges = np.sort(np.stack([fine.faces, np.roll(fine.faces, -1, 1)], -1).reshape(-1, 2), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed, no T-junction
    middles = vertices[fine.edges].mean(1)
    everything = np.concatenate([vertices, middles])
    corners = np.einsum("fck,fkx->fcx", fine.corners, vertices[faces[fine.origin]])
    np.testing.assert_allclose(corners, everything[fine.faces], atol=1e-6)
    a, b, c = everything[fine.faces].transpose(1, 0, 2)
    parent = np.cross(*(vertices[faces][fine.origin][:, k] - vertices[faces][fine.origin][:, 0] for k in (1, 2)))
    assert (np.einsum("fx,fx->f", np.cross(b - a, c - a), parent) > 0).all()  # orientation is kept
  assert len(fine.edges) == 0
  border = heads_mesh.refine(vertices, faces[:2], longest=0.0)
  assert border.edges.tolist() == [[0, 2]]  # the only edge with a face on both sides


def test_curved_middles_lie_on_a_sphere(rng):
  """PN triangles with exact normals reproduce a unit sphere to fourth order in the length of the edge."""
  ends = heads_mesh.unit(rng.normal(size=(50, 3)))
  others = heads_mesh.unit(ends + 0.1 * rng.normal(size=(50, 3)))
  both = np.concatenate([ends, others])
  edges = np.stack([np.arange(50), np.arange(50) + 50], 1)
  lengths = np.linalg.norm(ends - others, axis=1)
  radii = np.linalg.norm(heads_mesh.curved_middles(both, both, edges), axis=1)
  assert (np.abs(radii - 1) < 0.05 * lengths**4 + 1e-9).all()
  assert (np.abs(np.linalg.norm((ends + others) / 2, axis=1) - 1) > 2 * np.abs(radii - 1)).all()


def test_covered_ears_are_a_soap_film(rng):
  faces = np.array([[4, 0, 1], [4, 1, 2], [4, 2, 3], [4, 3, 0]])
  weights = heads_hair.membrane(faces, np.array([4]), 5)
  np.testing.assert_allclose(weights, [[0.25, 0.25, 0.25, 0.25, 0]], atol=1e-6)


# --- distributions


def test_views_have_the_stated_distributions():
  views = [heads_model.sample_view(heads_model.stream("train", i, heads_model.VIEW_STREAM)) for i in range(4000)]
  yaw, pitch = np.array([v.yaw for v in views]), np.array([v.pitch for v in views])
  n = np.sqrt(len(views))
  for angle, std in ((yaw, heads_model.YAW_STD), (pitch, heads_model.PITCH_STD)):
    assert abs(angle.mean()) < 4 * std / n
    assert abs(angle.std() / std - 1) < 4 / (np.sqrt(2) * n)
    for k, share in ((1, 0.6827), (2, 0.9545)):
      assert abs(np.mean(np.abs(angle) < k * std) - share) < 4 * 0.5 / n
  assert abs(np.corrcoef(yaw, pitch)[0, 1]) < 4 / n
  codes = np.stack([v.light for v in views]).astype(np.float64)
  std = np.sqrt(np.diag(heads_model.LIGHT_COVARIANCE))
  assert (np.abs(codes.mean(0) - heads_model.LIGHT_MEAN) < 0.05 * std + 4 * std / n).all()
  assert (np.abs(np.cov(codes.T) - heads_model.LIGHT_COVARIANCE) < 0.1 * np.outer(std, std)).all()
  ambient, diffuse = codes[:, 0] / 2 + 0.5, codes[:, 1] / 2 + 0.5
  low, high = heads_model.BRIGHTNESS_RANGE
  assert ((ambient + diffuse > low - 1e-6) & (ambient + diffuse < high + 1e-6)).all()
  assert (ambient > 0.2 - 1e-6).all()
  assert (ambient < 0.5 + 1e-6).all()


def test_shape_appearance_and_view_have_their_own_streams():
  model = heads_model.load_model()
  streams = [heads_model.stream("train", 0, k) for k in range(3)]
  assert len({s.integers(1 << 60) for s in streams}) == 3
  streams[0].normal(size=100)  # a stream that is read further changes no other
  appearance = heads_albedo.sample_appearance(
    heads_model.sample_person(model, heads_model.stream("train", 0, 0)), streams[1]
  )
  other = heads_model.stream("train", 0, 1)
  other.integers(1 << 60)
  same = heads_albedo.sample_appearance(heads_model.sample_person(model, heads_model.stream("train", 0, 0)), other)
  np.testing.assert_array_equal(appearance.skin, same.skin)


# --- the set on disk


def test_source_round_trips_what_was_rendered(tiny):
  source = heads.HeadsSource(tiny, "train")
  assert len(source) == TINY["train"]
  for i in (0, 4):
    example, stored = heads_render.render_example("train", i, 64), source[i]
    assert stored["image"].dtype == np.uint8
    assert stored["image"].shape == (64, 64, 3)
    np.testing.assert_array_equal(stored["image"], np.round(example["image"] * 255))
    np.testing.assert_array_equal(stored["albedo"], np.round(example["albedo"] * 255))
    for name in ("depth", "mask", "yaw", "pitch", "light"):
      np.testing.assert_array_equal(stored[name], example[name])
      assert stored[name].dtype == example[name].dtype
    np.testing.assert_allclose(stored["normals"], example["normals"], atol=2e-4)
    assert stored["normals"].dtype == np.float32
    assert ((stored["depth"] > 0.88) & (stored["depth"] < 1.12))[stored["mask"]].all()
    assert (stored["depth"][~stored["mask"]] == 0).all()
  images = source.images()
  assert images.shape == (5, 64, 64, 3)
  assert images.dtype == np.uint8
  np.testing.assert_array_equal(images, [source[i]["image"] for i in range(5)])
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[-1]["image"], source[4]["image"])
  assert len(list(source)) == 5  # IndexError ends the iteration
  with pytest.raises(UserError, match="no split"):
    heads.HeadsSource(tiny, "holdout")
  with pytest.raises(UserError, match="no prepared heads"):
    heads.HeadsSource(tiny.parent, "train")


def test_an_example_depends_on_its_split_and_index_only(tmp_path, tiny):
  fewer = heads.prepare(64, {"train": 2}, cache_dir=tmp_path, num_workers=0, progress=False)
  assert fewer != tiny
  np.testing.assert_array_equal(
    heads.HeadsSource(fewer, "train").images(), heads.HeadsSource(tiny, "train").images()[:2]
  )
  firsts = [heads.HeadsSource(tiny, split)[0] for split in TINY]
  assert len({float(first["yaw"]) for first in firsts}) == 3  # disjoint seeds
  assert len({first["depth"].tobytes() for first in firsts}) == 3
  with pytest.raises(UserError, match="unknown split"):
    heads.prepare(64, {"holdout": 2}, cache_dir=tmp_path)
  with pytest.raises(UserError, match="at least"):
    heads.prepare(64, {"train": 0}, cache_dir=tmp_path)


def test_an_interrupted_preparation_leaves_nothing_half_made(tmp_path, monkeypatch):
  whole = heads_workers.render_all

  def interrupted(jobs, image_size, *, num_workers):
    yield from whole(jobs[:2], image_size, num_workers=num_workers)
    raise KeyboardInterrupt

  arguments = {"cache_dir": tmp_path, "num_workers": 0, "progress": False}
  monkeypatch.setattr(heads_workers, "render_all", interrupted)
  with pytest.raises(KeyboardInterrupt):
    heads.prepare(16, {"train": 3}, **arguments)
  assert sorted(path.name for path in tmp_path.rglob("*")) == [".16px_train3.lock", "16px_train3", "heads"]
  remains = tmp_path / "heads" / "16px_train3" / f".preparing-{heads.VERSION}-killed"  # as a kill -9 would leave it
  remains.mkdir()
  monkeypatch.setattr(heads_workers, "render_all", whole)
  made = heads.prepare(16, {"train": 3}, **arguments)
  assert len(heads.HeadsSource(made, "train")) == 3
  assert not remains.exists()
  monkeypatch.setattr(heads_workers, "render_all", None)  # a prepared set is not rendered again
  assert heads.prepare(16, {"train": 3}, **arguments) == made


def test_of_two_preparations_at_once_the_second_waits_and_uses_the_first(tmp_path, monkeypatch):
  found, rendered, whole = [], [], heads_workers.render_all
  monkeypatch.setattr(
    heads_workers, "render_all", lambda jobs, *a, **k: (rendered.append(jobs), whole(jobs, *a, **k))[1]
  )
  arguments = {"cache_dir": tmp_path, "num_workers": 0, "progress": False}
  threads = [
    threading.Thread(target=lambda: found.append(heads.prepare(16, {"train": 2}, **arguments))) for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 2
  assert found[0] == found[1]
  assert len(heads.HeadsSource(found[0], "train")) == 2
  assert len(rendered) == 1


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
  monkeypatch.setenv("SHAPEGAN_CACHE", str(tmp_path))
  for cache_dir in (None, ""):  # an empty config value is no directory
    made = heads.prepare(16, {"train": 1}, cache_dir=cache_dir, num_workers=0, progress=False)
    assert made.is_relative_to(tmp_path)


def test_an_unwritable_cache_is_one_clear_line(tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("not a directory")
  with pytest.raises(UserError, match="SHAPEGAN_CACHE") as error:
    heads.prepare(16, {"train": 1}, cache_dir=blocked, num_workers=0, progress=False)
  assert "\n" not in str(error.value)


# --- workers


def test_workers_never_start_jax_and_render_what_this_process_renders():
  jobs = [("train", 0), ("test", 1), ("train", 2)]
  here = list(heads_workers.render_all(jobs, 24, num_workers=0))
  there = list(heads_workers.render_all(jobs, 24, num_workers=2))
  assert [a["image"] for a in here] == [b["image"] for b in there]
  np.testing.assert_array_equal([a["depth"] for a in here], [b["depth"] for b in there])
  check = (
    "import json, sys; from shapegan_jax.data import heads_workers; heads_workers.stored_example('train', 0, 16);"
    "print(json.dumps([m for m in ('jax', 'flax', 'tensorflow', 'tensorflow_datasets') if m in sys.modules]))"
  )
  output = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True, text=True, env=os.environ)
  assert json.loads(output.stdout) == []


def test_a_dying_worker_is_reported(monkeypatch, capfd):
  with pytest.raises(RuntimeError, match="rendering process"):
    list(heads_workers.render_all([("train", 0), ("no such split", 1)], 16, num_workers=1))
  assert "no such split" in capfd.readouterr().err
