"""The sheets of `shapegan lift`: the result for an image, the samples of each round, and previews during a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from shapegan_jax.methods.gan2shape.novel_views import LIGHTS_STRENGTH, LIGHTS_X, LIGHTS_Y, PITCHES_DEG, YAWS_DEG
from shapegan_jax.reporting.previews import labelled_grid
from shapegan_jax.tools.shared.drawing import sheet

_GAP = 8
_LARGE = 128  # minimum size in pixels of the images in the first row, which are twice as large as the others

Images = Float[np.ndarray, "_ _ _ 3"]


def result_sheet(
  maps: Mapping[str, Float[np.ndarray, "s s 3"]],
  rotations: Mapping[str, Images],
  relightings: Mapping[str, Images],
) -> UInt8[np.ndarray, "height width 3"]:
  """The result for one image.

  Args:
    maps: name -> image in [0, 1]: the input and its decomposition.
    rotations: "3D" and "GAN" -> images in the views of `novel_views.sheet_views`.
    relightings: the same in the lights of `novel_views.sheet_lights`.
  """
  large = np.stack(list(maps.values()))
  times = max(2, -(-_LARGE // large.shape[1]))
  large = large.repeat(times, 1).repeat(times, 2)
  views = [f"yaw {yaw:+.3g}" if yaw else "front" for yaw in YAWS_DEG]
  views += [f"pitch {pitch:+.3g}" if pitch else "front" for pitch in PITCHES_DEG]
  blocks = [sheet({"": large}, list(maps)), sheet(rotations, views)]
  lights = [f"x {x:g}\ny {y:g}" for y in LIGHTS_Y for x in LIGHTS_X]
  rows = {}
  for i, strength in enumerate(LIGHTS_STRENGTH):
    part = slice(i * len(lights), (i + 1) * len(lights))
    rows |= {f"{kind} {strength:+g}": images[part] for kind, images in relightings.items()}
  blocks.append(sheet(rows, lights))
  return stacked(blocks)


def samples_sheet(rounds: Sequence[Mapping[str, Images]]) -> UInt8[np.ndarray, "height width 3"]:
  """Some pseudo samples of each round, above their projected samples."""
  rows = {f"{i} {kind}": images for i, pairs in enumerate(rounds, 1) for kind, images in pairs.items()}
  return labelled_grid(rows)


def preview_sheet(
  maps: Mapping[str, Images], samples: Sequence[Mapping[str, Images]], names: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
  """A column per instance: its current maps, and below two of its latest pseudo and projected samples."""
  rows = dict(maps)
  for kind in samples[0]:
    for i in range(2):
      rows[f"{kind} {i + 1}"] = np.stack([pairs[kind][i] for pairs in samples])
  return sheet(rows, names)


def stacked(blocks: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "height width 3"]:
  """Images below one another, on white."""
  width = max(block.shape[1] for block in blocks)
  return np.concatenate(
    [np.pad(block, ((0, _GAP), (0, width - block.shape[1]), (0, 0)), constant_values=255) for block in blocks]
  )
