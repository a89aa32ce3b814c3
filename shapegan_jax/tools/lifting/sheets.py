"""The sheets of `shapegan lift`: what was found in a picture, the steps on the way, and the previews while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from shapegan_jax.methods.gan2shape.novel_views import LIGHTS_STRENGTH, LIGHTS_X, LIGHTS_Y, PITCHES_DEG, YAWS_DEG
from shapegan_jax.reporting.previews import labelled_grid
from shapegan_jax.tools.shared.drawing import sheet

_GAP = 8
_LARGE = 128  # pixels a side, at least, of the pictures in the first row: twice those of the others

Pictures = Float[np.ndarray, "_ _ _ 3"]


def result_sheet(
  maps: Mapping[str, Float[np.ndarray, "s s 3"]],
  turned: Mapping[str, Pictures],
  relit: Mapping[str, Pictures],
) -> UInt8[np.ndarray, "height width 3"]:
  """Everything about one subject.

  Args:
    maps: name -> picture in [0, 1]: the input and what it was taken apart into.
    turned: "3D" and "GAN" -> pictures from `YAWS_DEG`, then from `PITCHES_DEG`.
    relit: the same in the lights of `relief_views.sheet_lights`.
  """
  large = np.stack(list(maps.values()))
  times = max(2, -(-_LARGE // large.shape[1]))
  large = large.repeat(times, 1).repeat(times, 2)
  views = [f"yaw {yaw:+.3g}" if yaw else "front" for yaw in YAWS_DEG]
  views += [f"pitch {pitch:+.3g}" if pitch else "front" for pitch in PITCHES_DEG]
  blocks = [sheet({"": large}, list(maps)), sheet(turned, views)]
  lights = [f"x {x:g}\ny {y:g}" for y in LIGHTS_Y for x in LIGHTS_X]
  rows = {}
  for i, strength in enumerate(LIGHTS_STRENGTH):
    part = slice(i * len(lights), (i + 1) * len(lights))
    rows |= {f"{kind} {strength:+g}": pictures[part] for kind, pictures in relit.items()}
  blocks.append(sheet(rows, lights))
  return stacked(blocks)


def steps_sheet(rounds: Sequence[Mapping[str, Pictures]]) -> UInt8[np.ndarray, "height width 3"]:
  """Of each round some drawings of the relief in random views and lights, above what the generator made of them."""
  rows = {f"{i} {kind}": pictures for i, one in enumerate(rounds, 1) for kind, pictures in one.items()}
  return labelled_grid(rows)


def preview_sheet(
  maps: Mapping[str, Pictures], steps: Sequence[Mapping[str, Pictures]], names: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
  """A column for each subject, as it is now, and below a few of its latest drawings and what became of them."""
  rows = dict(maps)
  for kind in steps[0]:
    for i in range(2):
      rows[f"{kind} {i + 1}"] = np.stack([one[kind][i] for one in steps])
  return sheet(rows, names)


def stacked(blocks: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "height width 3"]:
  """Pictures below one another, on white."""
  width = max(block.shape[1] for block in blocks)
  return np.concatenate(
    [np.pad(block, ((0, _GAP), (0, width - block.shape[1]), (0, 0)), constant_values=255) for block in blocks]
  )
