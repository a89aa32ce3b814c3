"""Pictures as arrays: reading any file as a square RGB picture, and resampling on the grid that rays are cast through.

Two kinds of resize, because they answer two questions:

- A *file* becomes a picture of the prepared size by crop and Pillow's antialiased bicubic filter (`load_square`). The
  camera of a photograph is unknown, so the half pixel between "pixels are areas" and "pixels are points" has no meaning
  there.
- A *prepared picture* becomes a stage's picture by `resize`. Here both sizes are compared with renderings whose rays
  pass through a grid with both end points (pixel i of n at -1 + 2i/(n-1), `geometry.pixels`), so pixel j of m must show
  what lies at i = j(n-1)/(m-1). Area filters (Pillow's, `jax.image.resize`) show i = (j + 1/2) n/m - 1/2 instead: from
  64 to 32 the border would move outwards by a quarter of a pixel, and the object would seem to grow by 1.6 %.
"""

from __future__ import annotations

import functools
import math
import os
from typing import IO

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from PIL import Image, ImageOps

from shapegan_jax.errors import UserError

BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
_DEEP_GREY = {"I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I;16N": 65535.0, "I": 65535.0}


def background_color(name: str) -> tuple[int, int, int]:
  """The colour, 0..255, that transparent pixels are laid on. A `UserError` lists the known names."""
  if name not in BACKGROUNDS:
    raise UserError(f"data.background={name!r} is not known: choose one of {', '.join(BACKGROUNDS)}.")
  return BACKGROUNDS[name]


def to_rgb(image: Image.Image, *, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
  """Any Pillow mode as 8-bit RGB: alpha is laid onto `background`, 16-bit and float greys are scaled to 0..255."""
  if image.mode in _DEEP_GREY or image.mode == "F":
    grey = np.asarray(image, np.float64)
    white = _DEEP_GREY.get(image.mode) or (1.0 if grey.max(initial=0.0) <= 1.0 else 255.0)
    image = Image.fromarray(np.round(255 * np.clip(grey / white, 0, 1)).astype(np.uint8))
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
  return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
  image.load()  # outside the try: damaged pixels are an error, damaged orientation tags are ignored
  try:
    return ImageOps.exif_transpose(image)
  except Exception:
    return image


def square_box(width: int, height: int, side: int | float) -> tuple[int | float, int | float, int | float, int | float]:
  """(left, top, right, bottom) of the centred square; whole pixels where the side is whole, rounded as torchvision."""
  left, top = (width - side) / 2, (height - side) / 2
  if float(side).is_integer():
    left, top = round(left), round(top)
  return left, top, left + side, top + side


def load_square(
  file: str | os.PathLike | IO[bytes],
  size: int,
  *,
  crop: int | None = None,
  background: tuple[int, int, int] = (255, 255, 255),
) -> UInt8[np.ndarray, "size size 3"]:
  """Reads a file as an upright RGB picture: its centred square of `crop` pixels of the file (at most, and by default,
  the whole short side), resized to `size` with an antialiased bicubic filter.

  JPEG files are decoded at a reduced scale where that still leaves twice the resolution needed. Raises whatever Pillow
  raises for a file that is damaged, no image, or larger than `PIL.Image.MAX_IMAGE_PIXELS`.
  """
  with Image.open(file) as image:
    width, height = image.size
    side = min(crop or width, width, height)
    needed = 2 * size / side
    image.draft(None, (math.ceil(width * needed), math.ceil(height * needed)))  # does nothing unless it is a JPEG
    picture = to_rgb(_upright(image), background=background)
  scale = min(picture.size) / min(width, height)  # below 1 only if the JPEG was decoded at a reduced scale
  box = square_box(*picture.size, side * scale)
  return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def array_to_square(
  array: Shaped[np.ndarray, "h w c"], size: int, *, crop: int | None = None
) -> UInt8[np.ndarray, "size size 3"]:
  """`load_square` for a decoded uint8 array of 1, 3 or 4 channels."""
  picture = to_rgb(Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array))
  box = square_box(*picture.size, min(crop or picture.width, *picture.size))
  return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


@functools.lru_cache(maxsize=64)
def resize_matrix(n: int, m: int) -> Float32[np.ndarray, "m n"]:
  """Rows that resample n points to m points when both grids have the same first and last point.

  Row j is a triangle centred at c = j(n-1)/(m-1) whose half-width is the step of the coarser grid (so it is antialiased
  when shrinking and linear interpolation when enlarging), multiplied by the line in i - c that makes its sum 1 and its
  first moment 0. Hence constants and linear ramps pass exactly, at the borders too, and mirroring commutes with it.
  """
  step = (n - 1) / (m - 1) if m > 1 else float(n)
  centres = np.arange(m) * step if m > 1 else np.array([(n - 1) / 2])
  offsets = np.arange(n) - centres[:, None]
  weights = np.maximum(0.0, 1.0 - np.abs(offsets) / max(step, 1.0))
  m0, m1, m2 = ((weights * offsets**power).sum(1, keepdims=True) for power in (0, 1, 2))
  determinant = m0 * m2 - m1 * m1
  alone = determinant < 1e-9  # a single point has all the weight: nothing to correct
  determinant = np.where(alone, 1.0, determinant)
  constant, slope = np.where(alone, 1 / m0, m2 / determinant), np.where(alone, 0.0, -m1 / determinant)
  rows = (weights * (constant + slope * offsets)).astype(np.float32)
  rows.setflags(write=False)  # the cache returns the same array to every caller
  return rows


@functools.lru_cache(maxsize=64)
def _taps(n: int, m: int) -> tuple[Int64[np.ndarray, "m k"], Float32[np.ndarray, "m k"]]:
  """`resize_matrix` as the k neighbours with nonzero weight in each row, and these weights."""
  matrix = resize_matrix(n, m)
  k = int((matrix != 0).sum(1).max())
  first = np.minimum((matrix != 0).argmax(1), n - k)
  indices = first[:, None] + np.arange(k)
  return indices, np.take_along_axis(matrix, indices, 1)


def _resample_axis(images: Float32[np.ndarray, "*b"], size: int, axis: int) -> Float32[np.ndarray, "*r"]:
  # Sums in a fixed order, not a matrix product: the same bits on every machine, and no BLAS threads, which for matrices
  # of this size, fight each other and the training step (measured at 128 to 64 on two busy cores: 20 times slower).
  indices, weights = _taps(images.shape[axis], size)
  weights = weights.reshape(size, -1, *[1] * (-axis - 1))
  return sum(np.take(images, indices[:, k], axis) * weights[:, k] for k in range(indices.shape[1]))


def resample(images: Float[np.ndarray, "*b h w c"], size: int) -> Float32[np.ndarray, "*b size size c"]:
  """Antialiased resize on the grid with both end points; see `resize_matrix`."""
  return _resample_axis(_resample_axis(images.astype(np.float32, copy=False), size, -3), size, -2)


def resize(images: UInt8[np.ndarray, "*b h w c"], size: int) -> UInt8[np.ndarray, "*b size size c"]:
  """`resample`, rounded to 8 bits. A picture that already has the size is returned unchanged."""
  if images.shape[-3:-1] == (size, size):
    return images
  return np.clip(np.rint(resample(images.astype(np.float32), size)), 0, 255).astype(np.uint8)


def resize_nearest(images: UInt8[np.ndarray, "*b h w c"], size: int) -> UInt8[np.ndarray, "*b size size c"]:
  """The pi-GAN family's resize: pixel j shows pixel floor(j n / m), as torch's `nearest` on tensors does (aliased, and
  shifted by half a step towards the first pixel; Pillow's NEAREST would take floor((j + 1/2) n / m))."""
  height, width = images.shape[-3:-1]
  j = np.arange(size)
  return images[..., (j * height // size)[:, None], j * width // size, :]


def to_signed_unit(images: UInt8[np.ndarray, "*b"]) -> Float32[np.ndarray, "*b"]:
  """0..255 -> [-1, 1], the range of networks; C-contiguous."""
  return images.astype(np.float32, order="C") / np.float32(127.5) - np.float32(1)


def describe(error: BaseException) -> str:
  """A short reason for a message: the first line, without the file's name, which the message already has."""
  text = str(error).splitlines()[0] if str(error) else ""
  return type(error).__name__ if not text or "/" in text or "\\" in text else text[:80]
