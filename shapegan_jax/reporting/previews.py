"""One picture of what a generator produces: a column per latent; rows image, albedo, shading, normals, depth, yaws.

Maps are composited over white. Everything here is numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from shapegan_jax.types import Array, Cameras, Rendering

YAWS_DEG = (-35.0, 0.0, 35.0)
_MARGIN, _GAP = 56, 2

Maps = np.ndarray | Array


def preview_grid(
  front: Rendering,
  cameras: Cameras,
  turned: Mapping[str, Rendering],
  *,
  frame: Literal["camera", "world"] = "camera",
  min_cell: int = 64,
) -> UInt8[np.ndarray, "height width 3"]:
  """The labelled grid.

  Args:
    front: renderings [n, h, w] seen through `cameras` [n]; rows for the fields that are not None.
    turned: more rows: label -> renderings [n, h, w], of which `rgb` is shown.
    frame: the frame of the normals' colours (n + 1) / 2. In the camera's, what faces the viewer is light blue.
    min_cell: small pictures are enlarged by integer factors to at least this many pixels.
  """
  rows = pictures(front, cameras, frame=frame)
  rows |= {label: _pixels(rendering.rgb) for label, rendering in turned.items()}
  return labelled_grid(rows, min_cell=min_cell)


def pictures(
  rendering: Rendering, cameras: Cameras, *, frame: Literal["camera", "world"] = "camera"
) -> dict[str, Float[np.ndarray, "n h w 3"]]:
  """The maps of a rendering [n, h, w] as pictures in [0, 1]: image and, if present, albedo, shading, normals and depth
  on white. `cameras` [n] and `frame` apply to the normals; see `preview_grid`."""
  shown = {"image": _pixels(rendering.rgb)}
  mask = np.ones(rendering.rgb.shape[:3]) if rendering.acc is None else np.clip(_pixels(rendering.acc), 0.0, 1.0)
  if rendering.albedo is not None:
    shown["albedo"] = _over_white(_pixels(rendering.albedo), mask, premultiplied=True)
  if rendering.shading is not None:
    shown["shading"] = _over_white(np.repeat(_pixels(rendering.shading), 3, -1), mask)
  if rendering.normals is not None:
    normals = _pixels(rendering.normals)
    if frame == "camera":
      normals = np.einsum("bji,bhwj->bhwi", np.asarray(cameras.cam2world)[:, :3, :3], normals)
    shown["normals"] = _over_white((normals + 1) / 2, mask)
  if rendering.depth is not None:
    shown["depth"] = _over_white(depth_colors(rendering.depth, mask), mask)
  return shown


def depth_colors(depth: Float[Maps, "n h w"], mask: Float[Maps, "n h w"]) -> Float[np.ndarray, "n h w 3"]:
  """Grey: near is light and far is dark, over the central 98 % of the depths in all masks."""
  depth = _pixels(depth)
  seen = depth[np.asarray(mask) > 0.5]
  near, far = np.percentile(seen, [1, 99]) if seen.size else (0.0, 1.0)
  grey = 0.95 - 0.8 * np.clip((depth - near) / max(far - near, 1e-6), 0.0, 1.0)
  return np.repeat(grey[..., None], 3, -1)


def labelled_grid(
  rows: Mapping[str, Float[np.ndarray, "n h w 3"]], *, min_cell: int = 64
) -> UInt8[np.ndarray, "height width 3"]:
  """Rows of pictures in [0, 1], each with its label on the left."""
  n, height, width = next(iter(rows.values())).shape[:3]
  scale = math.ceil(min_cell / max(height, width))
  cell_h, cell_w = height * scale, width * scale
  canvas = Image.new("RGB", (_MARGIN + n * (cell_w + _GAP), len(rows) * (cell_h + _GAP)), "white")
  draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
  for r, (label, pictures) in enumerate(rows.items()):
    top = r * (cell_h + _GAP)
    draw.text((4, top + cell_h // 2 - 6), label, fill=(60, 60, 60), font=font)
    for c, picture in enumerate(to_uint8(pictures)):
      cell = Image.fromarray(picture).resize((cell_w, cell_h), Image.Resampling.NEAREST)
      canvas.paste(cell, (_MARGIN + c * (cell_w + _GAP), top))
  return np.asarray(canvas).copy()


def to_uint8(rgb: Float[Maps, "*b"]) -> UInt8[np.ndarray, "*b"]:
  """[0, 1] to 0..255, rounded; non-finite values become 0."""
  return np.round(255 * np.nan_to_num(np.clip(np.asarray(rgb, np.float64), 0.0, 1.0))).astype(np.uint8)


def yaw_labels(yaws_deg: Sequence[float] = YAWS_DEG) -> list[str]:
  """Row labels of the turned views."""
  return [f"yaw {yaw:+.0f}" if yaw else "yaw 0" for yaw in yaws_deg]


def _pixels(values: Maps) -> np.ndarray:
  return np.asarray(values, np.float64)


def _over_white(color: np.ndarray, mask: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
  return (color if premultiplied else color * mask[..., None]) + (1.0 - mask[..., None])
