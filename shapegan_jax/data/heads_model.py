"""Random people: from (split, index) to a head's geometry, pose and light. Numpy only: worker processes import it.

Every example has its own random streams, one for the shape, one for the appearance and one for the view, so that
changing how one is sampled does not affect the others. Rest coordinates are decimetres from the middle between the
eyes of the base mesh; the object frame is the package's world frame (y up, face towards +z), in which the camera's
distance is 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from shapegan_jax.data import heads_hair, heads_mesh

# The distributions, on which configs and tests rely. Angles are in radians.
CAMERA_RADIUS = 1.0
FOV_DEG = 12.0
CAMERA = {"radius": CAMERA_RADIUS, "fov_deg": FOV_DEG}  # as `geometry.triangles.project` takes it
YAW_STD = 0.3  # normal, mean 0; positive: the camera moves to +x
PITCH_STD = 0.155  # normal, mean 0; positive: the camera moves up
AMBIENT_MEAN, AMBIENT_STD, AMBIENT_RANGE = 0.35, 0.06, (0.2, 0.5)  # normal, clipped
BRIGHTNESS_RANGE = (0.93, 0.99)  # ambient + diffuse, uniform: below 1, so that nothing clips
LIGHT_X_STD, LIGHT_X_RANGE = 0.6, (-1.5, 1.5)  # direction (x, y, 1): normal with mean 0, clipped
LIGHT_Y_MEAN, LIGHT_Y_STD, LIGHT_Y_RANGE = 0.2, 0.4, (-0.8, 1.2)  # normal, clipped
# The same as a 4-d Gaussian over the code (l0, l1, lx, ly), l0 = 2 ambient - 1, l1 = 2 diffuse - 1 (after clipping).
LIGHT_MEAN = (-0.3, 0.22, 0.0, 0.2)
LIGHT_COVARIANCE = (
  (0.0140, -0.0140, 0.0, 0.0),
  (-0.0140, 0.0152, 0.0, 0.0),
  (0.0, 0.0, 0.348, 0.0),
  (0.0, 0.0, 0.0, 0.154),
)

SPLITS = {"train": 0, "validation": 1, "test": 2}
SERIES = 20260  # first word of every seed; increase it to change the set
SHAPE_STREAM, APPEARANCE_STREAM, VIEW_STREAM = 0, 1, 2
BODY_PART, CAP_PART = 0, 3
MASK_EARS = 2  # channel of the masks
EAR_RINGS = 3
LONGEST_EDGE = 0.09  # decimetres; longer edges are split once

SCALE = 0.078  # object units per decimetre
EYES_AT = (0.0, 0.009, 0.052)  # position of the middle between the eyes
MAX_RADIUS = 0.116  # of any vertex: every camera then sees the head between 0.884 and 1.116 along its axis
MAX_IMAGE = 0.099  # of |x| and |y| on the image plane at distance 1 in the frontal view, whose half-extent is 0.105


@dataclasses.dataclass(frozen=True)
class HeadModel:
  """The arrays of `assets/head_cc0.npz`, refined; the first vertices are those of the file (the base mesh)."""

  rest: np.ndarray  # [v, 3] decimetres
  faces: np.ndarray  # [f, 3] vertex indices, counter-clockwise seen from outside
  parts: np.ndarray  # [f] 0 body, 1 left eye, 2 right eye, 3 cap of the neck
  uvs: np.ndarray  # [f, 3, 2] texture coordinates of each corner
  rim: np.ndarray  # [n] vertices on the edge of the neck, in order
  eyes: tuple[np.ndarray, np.ndarray]  # vertices of the left and the right eyeball
  masks: np.ndarray  # [h, w, 4] uint8 lips, eyelids, ears, inside of the mouth
  mask_corner: np.ndarray  # [2] row and column of `masks` in the square of 512
  base_rest: np.ndarray  # [b, 3]
  base_faces: np.ndarray
  refinement: heads_mesh.Refinement
  deformations: np.ndarray  # [n, 3 b] rows: identity at +1, identity at -1, macros, expressions
  identity_names: tuple[str, ...]
  macro_names: tuple[str, ...]
  expression_names: tuple[str, ...]
  scalp: heads_hair.Scalp


@dataclasses.dataclass(frozen=True)
class Person:
  """One identity: geometry in the object frame and what the appearance depends on."""

  vertices: np.ndarray  # [v, 3] object frame
  ancestry: np.ndarray  # [3] African, Asian, European share, summing to 1
  male: float  # 0 .. 1
  age: float  # 0 (young adult) .. 1 (old)
  hair: heads_hair.Hair | None


@dataclasses.dataclass(frozen=True)
class View:
  """Camera and light of one image."""

  yaw: float
  pitch: float
  light: np.ndarray  # [4] (l0, l1, lx, ly)

  @property
  def ambient(self) -> float:
    return float(self.light[0]) / 2 + 0.5

  @property
  def diffuse(self) -> float:
    return float(self.light[1]) / 2 + 0.5

  @property
  def direction(self) -> Float[np.ndarray, "3"]:
    towards = np.array([self.light[2], self.light[3], 1.0])
    return towards / np.linalg.norm(towards)


def stream(split: str, index: int, which: int) -> np.random.Generator:
  """The generator of one random stream of one example."""
  return np.random.default_rng([SERIES, SPLITS[split], index, which])


@functools.lru_cache(maxsize=1)
def load_model() -> HeadModel:
  with np.load(Path(__file__).parent / "assets" / "head_cc0.npz") as file:
    data = {name: file[name] for name in file.files}
  rest, faces, parts = data["vertices"], data["faces"].astype(np.int64), data["parts"]
  uvs, masks, corner = data["uvs"].astype(np.float32) / 65535, data["masks"], data["mask_corner"]
  blocks = [data[n] for n in ("identity_positive", "identity_negative", "macros", "expressions")]
  vertex_uvs = np.zeros((len(rest), 2), np.float32)
  vertex_uvs[faces[parts == BODY_PART]] = uvs[parts == BODY_PART]
  on_body = np.unique(faces[parts == BODY_PART])
  ears = on_body[lookup_masks(masks, corner, vertex_uvs[on_body])[:, MASK_EARS] > 0.1]
  for _ in range(EAR_RINGS):  # the mask leaves out where the ear joins the head
    ears = np.unique(faces[np.isin(faces, ears).any(1)])
  fine = heads_mesh.refine(rest, faces, longest=LONGEST_EDGE)
  return HeadModel(
    rest=np.concatenate([rest, rest[fine.edges].mean(1)]),
    faces=fine.faces,
    parts=parts[fine.origin],
    uvs=np.einsum("fck,fku->fcu", fine.corners, uvs[fine.origin]),
    rim=data["rim"],
    eyes=(data["eye_left"], data["eye_right"]),
    masks=masks,
    mask_corner=corner,
    base_rest=rest,
    base_faces=faces,
    refinement=fine,
    deformations=np.concatenate([block.reshape(len(block), -1) for block in blocks]).astype(np.float32),
    identity_names=tuple(data["identity_names"].tolist()),
    macro_names=tuple(data["macro_names"].tolist()),
    expression_names=tuple(data["expression_names"].tolist()),
    scalp=heads_hair.find_scalp(rest, faces, ears),
  )


def lookup_masks(
  masks: UInt8[np.ndarray, "h w 4"], corner: Int[np.ndarray, "2"], uvs: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 4"]:
  """The four masks in [0, 1] at texture coordinates (nearest texel)."""
  rows = np.round((1 - uvs[:, 1]) * 511).astype(np.int64) - corner[0]
  columns = np.round(uvs[:, 0] * 511).astype(np.int64) - corner[1]
  rows, columns = rows.clip(0, masks.shape[0] - 1), columns.clip(0, masks.shape[1] - 1)
  return masks[rows, columns].astype(np.float32) * np.float32(1 / 240)


# Standard deviations of the identity coefficients by the beginning of the direction's name; the longest match wins.
# Zero: moves the whole head, or leaves the range of what looks human.
IDENTITY_STD = {
  "": 0.25,
  "head-trans": 0.0,
  "head-angle": 0.12,
  "head-age": 0.1,
  "head-triangular": 0.12,
  "head-invertedtriangular": 0.15,
  "head-diamond": 0.15,
  "head-rectangular": 0.15,
  "head-square": 0.15,
  "head-back": 0.15,
  "forehead": 0.18,
  "eyebrows-angle": 0.12,
  "neck": 0.12,
  "neck-trans": 0.0,
  "neck-double": 0.12,
  "measure-neck": 0.0,
  "l-ear-shape-pointed": 0.0,
  "l-ear-wing": 0.2,
  "mouth-trans": 0.15,
  "nose-trans": 0.15,
}
# The largest weight of each expression unit by the beginning of its name, and how often it is present.
EXPRESSION_MAX = {
  "": (0.0, 0.0),
  "mouthSmile": (0.8, 0.7),
  "jawOpen": (0.16, 0.25),
  "browInnerUp": (0.4, 0.3),
  "browOuterUp": (0.4, 0.25),
  "browDown": (0.15, 0.1),
  "eyeWide": (0.35, 0.2),
  "eyeSquint": (0.35, 0.2),
  "eyeBlink": (0.25, 0.15),
  "cheekPuff": (0.25, 0.1),
  "cheekSquint": (0.4, 0.2),
  "mouthPucker": (0.35, 0.12),
  "mouthFunnel": (0.25, 0.1),
  "mouthDimple": (0.4, 0.2),
  "mouthStretch": (0.3, 0.1),
  "mouthUpperUp": (0.2, 0.1),
  "mouthLowerDown": (0.2, 0.1),
  "mouthShrugUpper": (0.2, 0.1),
}


def _longest_match(table: dict, name: str) -> object:
  return table[max((key for key in table if name.startswith(key)), key=len)]


@functools.lru_cache(maxsize=1)
def _identity_stds() -> Float[np.ndarray, " n"]:
  return np.array([_longest_match(IDENTITY_STD, name) for name in load_model().identity_names])


@functools.lru_cache(maxsize=1)
def _expression_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Per unit: its largest weight, how often it is present, and the unit it follows (right follows left)."""
  names = load_model().expression_names
  largest, often = np.array([_longest_match(EXPRESSION_MAX, name) for name in names]).T
  left = [name[:-5] + "Left" if name.endswith("Right") else name for name in names]
  return largest, often, np.array([names.index(m if m in names else n) for m, n in zip(left, names, strict=True)])


def _macro_weights(names: tuple[str, ...], ancestry: np.ndarray, male: float, age: float, muscle: float, weight: float):
  """Weights of the macro targets: products of the shares their names list (MakeHuman's own rule)."""

  def of_three(value: float) -> dict[str, float]:
    return {"min": max(0.0, -value), "average": 1 - abs(value), "max": max(0.0, value)}

  share = {"male": male, "female": 1 - male, "old": age, "young": 1 - age, "universal": 1.0}
  share |= dict(zip(("african", "asian", "caucasian"), ancestry, strict=True))
  share |= {f"{k}muscle": v for k, v in of_three(muscle).items()}
  share |= {f"{k}weight": v for k, v in of_three(weight).items()}
  return np.array([math.prod(share[word] for word in name.split("-")) for name in names])


def _draw_expression(rng: np.random.Generator) -> Float[np.ndarray, " n"]:
  largest, often, follows = _expression_table()
  strength, present = rng.uniform(size=(2, len(largest)))
  return (strength * largest * (present < often))[follows]


def _place(model: HeadModel, shape: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
  """Decimetres to the object frame: eyes at `EYES_AT`, scaled down about the origin where a head would not fit."""
  middle = (shape[model.eyes[0]].mean(0) + shape[model.eyes[1]].mean(0)) / 2
  placed = (shape - middle) * SCALE + np.array(EYES_AT)
  x, y, z = placed.T
  on_image = np.maximum(np.abs(x), np.abs(y)) / (CAMERA_RADIUS - z)
  fit = min(1.0, MAX_IMAGE / on_image.max(), MAX_RADIUS / np.sqrt((x * x + y * y + z * z).max()))
  return (placed * fit).astype(np.float32)


def sample_person(model: HeadModel, rng: np.random.Generator) -> Person:
  ancestry, male = rng.dirichlet([0.6] * 3), float(rng.beta(0.5, 0.5))
  age, muscle, weight = float(rng.beta(1.1, 4.0)), rng.uniform(-0.6, 0.6), rng.uniform(-0.7, 0.8)
  identity = np.clip(rng.normal(size=len(model.identity_names)), -2.5, 2.5) * _identity_stds()
  expression = _draw_expression(rng)
  hair = heads_hair.draw_hair(rng, male, age)
  macro = _macro_weights(model.macro_names, ancestry, male, age, muscle, weight)
  weights = np.concatenate([np.maximum(identity, 0), np.maximum(-identity, 0), macro, expression]).astype(np.float32)
  used = np.flatnonzero(weights)
  shape = model.base_rest + (weights[used] @ model.deformations[used]).reshape(-1, 3)
  if hair is not None:
    shape = heads_hair.grow_hair(model.scalp, hair, shape)
  normals = heads_mesh.vertex_normals(shape, model.base_faces)
  shape = np.concatenate([shape, heads_mesh.curved_middles(shape, normals, model.refinement.edges)])
  return Person(_place(model, shape), ancestry, male, age, hair)


def sample_view(rng: np.random.Generator) -> View:
  yaw, pitch = rng.normal(0, YAW_STD), rng.normal(0, PITCH_STD)
  ambient = np.clip(rng.normal(AMBIENT_MEAN, AMBIENT_STD), *AMBIENT_RANGE)
  diffuse = rng.uniform(*BRIGHTNESS_RANGE) - ambient
  x = np.clip(rng.normal(0, LIGHT_X_STD), *LIGHT_X_RANGE)
  y = np.clip(rng.normal(LIGHT_Y_MEAN, LIGHT_Y_STD), *LIGHT_Y_RANGE)
  # Rounded to the stored precision, so that an image is rendered with exactly the numbers stored with it.
  light = np.array([2 * ambient - 1, 2 * diffuse - 1, x, y], np.float32)
  return View(float(np.float32(yaw)), float(np.float32(pitch)), light)
