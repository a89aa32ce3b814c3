"""The hair of the `heads` set: where it grows on the rest mesh, how thick it is, and the noise that makes it uneven.

All positions are rest coordinates (decimetres from the middle between the eyes), so that geometry and colour agree on
where the hair is. Numpy only: worker processes import it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int


def smoothstep(x: np.ndarray) -> np.ndarray:
  """0 below 0, 1 above 1, and 3x^2 - 2x^3 between."""
  x = np.clip(x, 0, 1)
  return x * x * (3 - 2 * x)


def draw_waves(rng: np.random.Generator, frequency: float, count: int = 8) -> Float[np.ndarray, "n 4"]:
  """Random plane waves: normal frequency vectors (radians per decimetre) and uniform phases."""
  return np.concatenate([rng.normal(0, frequency, (count, 3)), rng.uniform(0, 2 * np.pi, (count, 1))], 1)


def wave_noise(points: Float[np.ndarray, "n 3"], waves: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, " n"]:
  """Smooth noise in [-1, 1] with standard deviation 1/sqrt(2k): the mean of the plane waves at the points."""
  waves = waves.astype(np.float32)
  return np.cos(points @ waves[:, :3].T + waves[:, 3]).mean(-1)


@dataclasses.dataclass(frozen=True)
class Scalp:
  """What growing hair needs to know of the base mesh."""

  rest: np.ndarray  # [v, 3]
  away: np.ndarray  # [v, 3] unit, outwards from the axis of the head; horizontal below the eyes
  above: np.ndarray  # [v] 0 at the eyes, 1 at the top
  below: np.ndarray  # [v] 0 at the eyes, 1 at the chin and under it
  ears: np.ndarray  # [e] vertices of the ears
  ear_distance: np.ndarray  # [v] to the nearest of them
  ear_membrane: np.ndarray  # [e, v] where they lie when flattened, as weights of the vertices around them


@dataclasses.dataclass(frozen=True)
class Hair:
  """A hair style in rest coordinates: hair grows where `hair_height` > 0 and is `volume` decimetres thick."""

  top: float  # height of the line over the forehead
  recede: float  # how much higher it is at the temples
  nape: float  # where it ends at the back
  temple: float  # how much further forward than usual the edge beside the face is
  volume: float
  crown: float  # extra thickness at the top
  sides: float  # extra thickness of long hair beside and behind the neck
  covers_ears: bool
  waves: np.ndarray  # [n, 4] plane waves (frequency vector, phase) that make the thickness uneven


def find_scalp(rest: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], ears: Int[np.ndarray, " e"]) -> Scalp:
  away = np.stack([rest[:, 0], np.maximum(rest[:, 1] - 0.1, 0), rest[:, 2] + 0.75], -1)
  to_ears = rest[:, None] - rest[ears]
  return Scalp(
    rest=rest,
    away=away / (np.linalg.norm(away, axis=-1, keepdims=True) + 1e-6),
    above=smoothstep((rest[:, 1] - 0.3) / 0.9),
    below=smoothstep((0.1 - rest[:, 1]) / 0.8),
    ears=ears,
    ear_distance=np.sqrt((to_ears**2).sum(-1).min(1)),
    ear_membrane=membrane(faces, ears, len(rest)),
  )


def membrane(faces: Int[np.ndarray, "f 3"], inner: Int[np.ndarray, " e"], count: int) -> Float[np.ndarray, "e v"]:
  """A discrete soap film: each inner vertex is the mean of its neighbours, solved for weights of the outer vertices."""
  ring = faces[np.isin(faces, inner).any(1)]
  rows = np.zeros((count, count), np.float32)
  for a, b in ((0, 1), (1, 2), (2, 0)):
    rows[ring[:, a], ring[:, b]] = rows[ring[:, b], ring[:, a]] = 1
  rows = rows[inner].astype(np.float64)
  rows /= rows.sum(1, keepdims=True)
  within = rows[:, inner].copy()
  rows[:, inner] = 0
  return np.linalg.solve(np.eye(len(inner)) - within, rows).astype(np.float32)


def draw_hair(rng: np.random.Generator, male: float, age: float) -> Hair | None:
  """A style: none, very short, short, full, or (more often on women) long, behind or over the ears."""
  kind = rng.uniform()
  waves = draw_waves(rng, 2.5)
  u = rng.uniform(size=8)
  long_share = 0.62 - 0.55 * male
  if kind < 0.02 + 0.12 * male * (0.4 + age):
    return None
  covers_ears = False
  if kind > 1 - long_share:  # covers the neck, from a bob to long
    volume, sides, nape, crown = 0.08 + 0.1 * u[0], 0.15 + 0.25 * u[1], -4.0, 0.1 * u[2]
    covers_ears = bool(u[3] < 0.65)
  elif u[3] < 0.25:  # full and round
    volume, sides, nape, crown = 0.18 + 0.14 * u[0], 0.0, -0.6 - 0.3 * u[1], 0.1 * u[2]
  elif u[3] < 0.45:  # very short
    volume, sides, nape, crown = 0.02 + 0.03 * u[0], 0.0, -0.7 - 0.2 * u[1], 0.0
  else:  # short
    volume, sides, nape, crown = 0.06 + 0.1 * u[0], 0.0, -0.65 - 0.3 * u[1], 0.2 * u[2]
  fringe = 0.2 * (u[4] < 0.3) * (1 - male)
  return Hair(
    top=0.62 + 0.14 * u[5] - fringe,
    recede=0.14 * u[6] * male,
    nape=nape,
    temple=-0.05 + 0.12 * u[7],
    volume=volume,
    crown=crown,
    sides=sides,
    covers_ears=covers_ears,
    waves=waves,
  )


# The front edge of the hair beside the face, z over y: from the temple down in front of the ear, then back behind it,
# or straight down over the ear and past the jaw.
EDGE_Y = (-1.2, -0.8, -0.5, -0.3, -0.1, 0.2, 0.5, 0.8)
EDGE_BEHIND_EARS = (-0.76, -0.86, -0.92, -0.78, -0.56, -0.47, -0.42, -0.3)
EDGE_OVER_EARS = (-0.84, -0.66, -0.56, -0.5, -0.46, -0.44, -0.4, -0.3)


def hair_height(hair: Hair, rest: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
  """Roughly the distance (decimetres) of a rest position inside the edge of the hair; negative on the face and neck."""
  x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
  above = y - hair.top - hair.recede * np.exp(-(((x - 0.4) / 0.22) ** 2))
  beside = np.interp(y, EDGE_Y, EDGE_OVER_EARS if hair.covers_ears else EDGE_BEHIND_EARS) + hair.temple - z
  front = 0.5 * (above + beside + np.sqrt((above - beside) ** 2 + 0.01))  # a smooth maximum: rounds the corner
  return np.minimum(front, y - hair.nape)


def grow_hair(scalp: Scalp, hair: Hair, shape: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
  """Pushes the scalp of a head outwards; the ears stay where they are, or are flattened first and then covered."""
  grown = smoothstep(hair_height(hair, scalp.rest) / 0.35)
  if hair.covers_ears:
    shape = shape.copy()
    shape[scalp.ears] = scalp.ear_membrane @ shape
  else:
    grown = grown * smoothstep(scalp.ear_distance / 0.25)
  uneven = 1 + 0.9 * wave_noise(scalp.rest, hair.waves)
  thickness = hair.volume * uneven + hair.crown * scalp.above + hair.sides * scalp.below
  return shape + (grown * thickness)[:, None] * scalp.away
