"""The skin, hair and eyes of the `heads` set: a procedural albedo, a function of the position on the rest mesh.

It depends only on rest positions, texture masks and part numbers, so the surface colour is the same at every resolution
and under every light. No photograph is involved. Colours are linear reflectances in [0, 1]. Numpy only.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8

from shapegan_jax.data import heads_hair, heads_model

LIGHT_SKIN, DARK_SKIN = np.array([0.94, 0.76, 0.66]), np.array([0.33, 0.20, 0.14])
# Melanin of the three ancestries (African, Asian, European), 0 .. 1.
MELANIN = np.array([0.85, 0.3, 0.12])
HAIR_COLORS = np.array(
  [
    [0.06, 0.05, 0.045],  # black
    [0.17, 0.10, 0.06],  # dark brown
    [0.34, 0.21, 0.11],  # brown
    [0.68, 0.50, 0.27],  # blond
    [0.50, 0.20, 0.08],  # red
    [0.60, 0.59, 0.58],  # grey
  ]
)
IRIS_COLORS = np.array([[0.24, 0.13, 0.07], [0.11, 0.07, 0.05], [0.27, 0.40, 0.52], [0.30, 0.38, 0.22]])


@dataclasses.dataclass(frozen=True)
class Appearance:
  """The colours of one person; arrays of three are linear RGB."""

  skin: np.ndarray
  hair: np.ndarray
  lips: np.ndarray
  iris: np.ndarray
  blush: float
  brow_height: float
  brow_width: float
  brow_strength: float
  beard: float  # 0: none
  beard_line: float
  waves: tuple[np.ndarray, ...]  # plane waves for skin (coarse, fine), edges of hair, strands


def sample_appearance(person: heads_model.Person, rng: np.random.Generator) -> Appearance:
  melanin = float(np.clip(person.ancestry @ MELANIN + rng.normal(0, 0.08), 0, 1))
  skin = (LIGHT_SKIN * (1 - melanin) + DARK_SKIN * melanin) * (1 + rng.normal(0, 0.03, 3))
  fair = np.array([0.24, 0.26, 0.2, 0.14, 0.08, 0.08])
  dark = np.array([0.8, 0.14, 0.02, 0.0, 0.0, 0.04])
  share = person.ancestry[2] * fair + (1 - person.ancestry[2]) * dark
  grey = person.age**1.5
  share = share * (1 - grey) + np.eye(6)[5] * grey
  hair = HAIR_COLORS[rng.choice(6, p=share / share.sum())] * (1 + rng.normal(0, 0.15) + rng.normal(0, 0.02, 3))
  eyes = np.array([0.35, 0.15, 0.35, 0.15]) * person.ancestry[2] + np.array([0.2, 0.8, 0, 0]) * (1 - person.ancestry[2])
  iris = IRIS_COLORS[rng.choice(4, p=eyes / eyes.sum())]
  lips = skin * np.array([0.93, 0.7, 0.7]) + (1 - person.male) * np.array([0.08, -0.02, 0.0])
  lips = lips * rng.uniform(0.8, 1.0)
  u = rng.uniform(size=6)
  return Appearance(
    skin=skin,
    hair=hair.clip(0.02, 0.9),
    lips=lips,
    iris=iris,
    blush=float(0.3 + 0.7 * u[0]) * (1 - melanin),
    brow_height=float(-0.015 + 0.03 * u[1]),
    brow_width=float(0.034 + 0.014 * u[2] + 0.008 * person.male),
    brow_strength=float(0.45 + 0.35 * u[3]),
    beard=float((0.1 + 0.65 * u[5]) if person.male > 0.6 and u[4] < 0.4 else 0.0),
    beard_line=float(-0.76 + 0.06 * rng.uniform(-1, 1)),
    waves=tuple(heads_hair.draw_waves(rng, f) for f in (4.0, 14.0, 6.0, 1.0)),
  )


def vertex_noise(appearance: Appearance, rest: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
  """The noises of the albedo at the vertices, to be interpolated: mottling of the skin, edges of hair, strands."""
  coarse, fine, edges, strands = appearance.waves
  mottle = 0.05 * heads_hair.wave_noise(rest, coarse) + 0.03 * heads_hair.wave_noise(rest, fine)
  streaks = heads_hair.wave_noise(rest * np.array([18.0, 5.0, 9.0], np.float32), strands)
  return np.stack([mottle, heads_hair.wave_noise(rest, edges), streaks], -1).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def _blend(color: np.ndarray, other: np.ndarray, amount: Float[np.ndarray, " n"]) -> np.ndarray:
  return color + (other - color) * amount[:, None]


def albedo_at(
  model: heads_model.HeadModel,
  person: heads_model.Person,
  appearance: Appearance,
  *,
  rest: Float[np.ndarray, "n 3"],
  noise: Float[np.ndarray, "n 3"],
  uvs: Float[np.ndarray, "n 2"],
  parts: UInt8[np.ndarray, " n"] | Int[np.ndarray, " n"],
) -> Float[np.ndarray, "n 3"]:
  """Albedo in [0.01, 0.95] at rest positions of the surface, with the noises of `vertex_noise` interpolated there."""
  a = appearance
  x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
  mottle, edge, strand = noise.T
  body = (parts == heads_model.BODY_PART).astype(np.float32)
  lips, eyelids, ears, mouth = (heads_model.lookup_masks(model.masks, model.mask_corner, uvs) * body[:, None]).T
  color = a.skin.astype(np.float32) * (1 + mottle[:, None])
  cheeks = np.exp(-((x - 0.42) ** 2 + (y + 0.5) ** 2) / 0.06) * (z > -0.6) * a.blush
  color = color + cheeks[:, None] * np.array([0.04, -0.04, -0.04], np.float32)
  color = _blend(color, a.lips, 0.8 * lips)
  color = color * (1 - 0.18 * eyelids - 0.7 * mouth)[:, None]
  t = (x - 0.15) / 0.40
  arc = 0.262 + a.brow_height + 0.055 * np.sin(np.pi * np.clip(0.15 + 0.75 * t, 0, 1))
  width = a.brow_width * (1.1 - 0.5 * np.clip(t, 0, 1))
  ends = heads_hair.smoothstep(t / 0.15) * heads_hair.smoothstep((1 - t) / 0.25)
  brows = np.exp(-(((y - arc) / width) ** 2)) * ends * (z > -0.35) * a.brow_strength
  color = _blend(color, 0.8 * a.hair + 0.1 * a.skin, brows * body)
  if a.beard:
    line = a.beard_line + 0.7 * np.clip(x - 0.25, 0, 0.5) + 0.05 * edge
    grown = (
      _sigmoid((line - y) * 16) * heads_hair.smoothstep((y + 1.38) / 0.25) * heads_hair.smoothstep((z + 0.8) / 0.25)
    )
    moustache = np.exp(-(((y + 0.54) / 0.05) ** 2)) * _sigmoid((0.26 - x) * 30) * (z > -0.2)
    color = _blend(color, a.hair, a.beard * np.maximum(grown, 0.8 * moustache) * (1 - lips) * (1 - mouth) * body)
  if person.hair is not None:
    height = heads_hair.hair_height(person.hair, rest) + 0.12 * edge
    bare = 0 if person.hair.covers_ears else ears
    cover = _sigmoid(height * 35) * (1 - bare) * (1 - (parts == 1)) * (1 - (parts == 2))
    color = _blend(color, a.hair * (1 + 0.55 * strand[:, None]), cover)
  for part, eye in ((1, model.eyes[0]), (2, model.eyes[1])):
    here = np.flatnonzero(parts == part)
    if here.size:
      color[here] = _eye_color(model.rest[eye], rest[here], a.iris)
  return color.clip(0.01, 0.95).astype(np.float32)


def _eye_color(eye: np.ndarray, rest: np.ndarray, iris: np.ndarray) -> np.ndarray:
  """Pupil, iris and white by the distance from the eye's forward axis."""
  low, high = eye.min(0), eye.max(0)
  offset = (rest - (low + high) / 2) / ((high[0] - low[0]) / 2)
  radius = np.where(offset[:, 2] > 0, np.linalg.norm(offset[:, :2], axis=1), 2.0)
  white = np.array([0.9, 0.89, 0.87])
  color = _blend(np.broadcast_to(white, rest.shape), iris, _sigmoid((0.48 - radius) * 60))
  return _blend(color, np.full(3, 0.02), _sigmoid((0.2 - radius) * 60)).astype(np.float32)
