"""Initial depth maps: spherical caps stretched to the bounding box of a mask (GAN2Shape, section 3.2); and masks.

Masks are in [0, 1], with rows from top to bottom. No segmentation network is used: where no mask is given, it comes
from the background colour or is an ellipse in the middle.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from shapegan_jax.numerics import safe_div

_INSIDE = 0.7  # the published threshold for soft masks


@dataclasses.dataclass(frozen=True)
class BoxChange:
  """Changes of a mask's bounding box before the cap is fitted, as fractions of its height (`up`, `down`) and width.

  Positive numbers enlarge the box. `to_bottom` extends it to the last row of the image. Published: faces `sides=-1/12`
  and `to_bottom` (their masks end at the neck), synthetic faces `up=1/6` (their masks lack the forehead), cars and
  churches `down=1/6`, cats and horses none.
  """

  up: float = 0.0
  down: float = 0.0
  sides: float = 0.0
  to_bottom: bool = False


def ellipsoid_depth(
  mask: Float[Array, "*b s s"] | Bool[Array, "*b s s"],
  *,
  near: float = 0.91,
  far: float = 1.02,
  radius: float = 0.4,
  box: BoxChange = BoxChange(),
  meaning: Literal["paper", "released"] = "paper",
) -> Float[Array, "*b s s"]:
  """Depth that is `near` at the centre of each mask's box and `far` on and outside the ellipse in the box.

  Args:
    radius: radius of the sphere, in units of depth, of which a cap of height far - near is used; with
      `radius = far - near` the cap is a hemisphere.
    meaning: "paper": the ellipse is centred in the box. "released": as in the authors' code, which scales rows about
      row s / 2 and then compares them with the centre of the box, so that an ellipse in a tall box lies farther from
      the centre of the image than its box.

  If a mask is below 0.7 everywhere there is no box and the depth is `far`.
  """
  inside = jnp.asarray(mask) >= _INSIDE
  size = inside.shape[-1]
  found = jnp.any(inside, (-2, -1))
  (top, bottom), (left, right) = (_ends(jnp.any(inside, axis)) for axis in (-1, -2))
  height, width = bottom - top, right - left
  top, bottom = top - box.up * height, jnp.full_like(bottom, size - 1) if box.to_bottom else bottom + box.down * height
  left, right = left - box.sides * width, right + box.sides * width
  # A box is at least one pixel high and wide.
  half_width, half_height = jnp.maximum(right - left, 1.0) / 2, jnp.maximum(bottom - top, 1.0) / 2
  lines = jnp.arange(size, dtype=top.dtype)
  middle_row, middle_column, ratio = (
    (x)[..., None] for x in ((top + bottom) / 2, (left + right) / 2, half_height / half_width)
  )
  lines = lines.reshape((1,) * (middle_row.ndim - 1) + (-1,))
  if meaning == "released":
    rows = (lines - size / 2) / ratio + size / 2 - middle_row
  else:
    rows = (lines - middle_row) / ratio
  distance = jnp.hypot(rows[..., :, None], (lines - middle_column)[..., None, :])
  share = distance / half_width[..., None, None]
  edge = math.sqrt(radius**2 - (radius - (far - near)) ** 2)  # radius of the cap's edge
  cap = radius - jnp.sqrt(jnp.abs(radius**2 - (share * edge) ** 2)) + near
  return jnp.where((share <= 1) & found[..., None, None], cap, far)


def background_mask(
  image: Float[Array, "*b h w 3"], *, color: ArrayLike | None = None, threshold: float = 0.06
) -> Float[Array, "*b h w"]:
  """1 where images in [-1, 1] differ from their constant background by more than `threshold`, in units of [0, 1].

  `color` is the background colour in [-1, 1], one number or three; None uses the median of each channel over the first
  row and the upper halves of the first and last columns (the lower halves may show shoulders). Isolated pixels count as
  noise: a pixel is kept only if the majority of the 3 x 3 pixels around it differ.
  """
  height = image.shape[-3] // 2
  if color is None:
    edge = [image[..., 0, :, :], image[..., :height, 0, :], image[..., :height, -1, :]]
    color = jnp.median(jnp.concatenate(edge, -2), -2)[..., None, None, :]
  else:
    color = jnp.broadcast_to(jnp.asarray(color, image.dtype), (3,)).reshape((1,) * (image.ndim - 1) + (3,))
  differs = (jnp.max(jnp.abs(image - color), -1) > 2 * threshold).astype(image.dtype)
  padded = jnp.pad(differs, ((0, 0),) * (image.ndim - 3) + ((1, 1), (1, 1)), mode="edge")
  rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
  around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
  return (around >= 5).astype(image.dtype)


def centroids(mask: Float[Array, "*b h w"]) -> Float[Array, "*b 2"]:
  """The centroids (x, y) of masks, as fractions of the width and height from the upper left; 0 for an empty mask."""
  rows, columns = ((jnp.arange(n) + 0.5) / n for n in mask.shape[-2:])
  sums = [jnp.einsum("...hw,w->...", mask, columns), jnp.einsum("...hw,h->...", mask, rows)]
  return safe_div(jnp.stack(sums, -1), jnp.sum(mask, (-2, -1))[..., None])


def centred_ellipse(size: int, radii: tuple[float, float] = (0.7, 0.9)) -> Float[Array, "{size} {size}"]:
  """1 inside the centred ellipse with semi-axes `radii` (horizontal, vertical), in units of half the image."""
  line = (jnp.arange(size) + 0.5) / size * 2 - 1
  return ((line / radii[0])[None, :] ** 2 + (line / radii[1])[:, None] ** 2 < 1).astype(jnp.float32)


def _ends(line: Bool[Array, "*b s"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
  """The indices of the first and the last true element; if there is none, 0 and s - 1."""
  first, behind = jnp.argmax(line, -1), jnp.argmax(line[..., ::-1], -1)
  return first.astype(jnp.float32), (line.shape[-1] - 1 - behind).astype(jnp.float32)
