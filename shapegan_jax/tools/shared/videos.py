"""Videos from pictures: mp4 by ffmpeg (extra `[video]`), gif by pillow; written atomically."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from shapegan_jax.errors import UserError
from shapegan_jax.files import aside

ENDINGS = (".mp4", ".gif")
"""What a video's name may end in."""


def check_video(path: Path, seconds: float, fps: int) -> int:
  """The number of frames of a video that can be written to `path` here. Call before the work begins.

  Raises:
    UserError: an invalid length, or an mp4 without ffmpeg.
  """
  if not (math.isfinite(seconds) and 0 < seconds <= 600):
    raise UserError(f"--seconds={seconds}: must be more than 0 and at most 600")
  most = 50 if path.suffix.lower() == ".gif" else 120
  if not 1 <= fps <= most:
    raise UserError(f"--fps={fps}: must be 1 to {most} for {path.suffix}")
  if path.suffix.lower() == ".mp4" and not all(map(importlib.util.find_spec, ("imageio", "imageio_ffmpeg"))):
    raise UserError(f"{path}: mp4 needs ffmpeg; pip install -e '.[video]', or name a .gif, which needs nothing")
  return max(2, round(seconds * fps))


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: int) -> None:
  """Write frames as they arrive; a gif repeats forever. All frames have the same size.

  mp4 is H.264 with 4:2:0 colours, which every player supports and which needs even sizes: an odd side is padded with a
  white line. Frames of a gif last a whole number of hundredths of a second, so its speed only approximates `fps`.
  """
  with aside(path) as temporary:
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    write(temporary, frames, fps)


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
  pictures = [Image.fromarray(frame) for frame in frames]
  # One palette for all frames, from some of them: with one per frame, flat colours flicker.
  some = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures[:: max(1, len(pictures) // 8)]]))
  colors = np.reshape(some.quantize(254).getpalette(), (-1, 3))
  # Pure backgrounds: pillow finds the nearest colour only approximately, so white and black get no near neighbours.
  colors = colors[(colors.min(-1) < 248) & (colors.max(-1) > 7)]
  palette = Image.new("P", (1, 1))
  palette.putpalette([0, 0, 0, 255, 255, 255, *colors.ravel().tolist()])
  indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
  duration = 10 * max(2, round(100 / fps))
  indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=duration, loop=0)


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
  import imageio.v2 as imageio

  frames = iter(frames)
  # Rendered before ffmpeg is started: an exception then leaves no process behind.
  first = next(frames)
  writer = imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=2)
  try:  # its own context manager leaves ffmpeg running after an exception
    with warnings.catch_warnings():
      # jax warns about every fork; this one, at the first frame, becomes ffmpeg at once.
      warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
      writer.append_data(_even(first))
    for frame in frames:
      writer.append_data(_even(frame))
  finally:
    writer.close()


def _even(frame: np.ndarray) -> np.ndarray:
  height, width = frame.shape[:2]
  return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
