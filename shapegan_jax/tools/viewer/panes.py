"""The viewer without a browser: from a request (`View`) to pictures, and all of them on one canvas.

The large picture is the middle square of the canvas, so that a browser's camera with `canvas_fov` sees things of the
scene (a mesh) exactly where the picture shows them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from shapegan_jax.geometry.lights import angles_from_lights, lights_from_angles
from shapegan_jax.model import Model
from shapegan_jax.reporting.previews import pictures, to_uint8
from shapegan_jax.tools.shared.instances import Instances, from_seeds
from shapegan_jax.types import Array, Cameras, Codes, Lights

MAX_PITCH = math.radians(89.0)
_SMALL = 4  # small pictures along a side of the large one
_INK, _CAPTION = (90, 90, 90), 14


@dataclasses.dataclass(frozen=True)
class View:
  """Everything that a picture depends on. Angles are in radians; equal views look the same."""

  first: int = 0  # a seed, or the place of a shape in a codes file
  second: int = 1
  mix: float = 0.0  # 0: the first shape, 1: the second
  truncation: float = 1.0
  yaw: float = 0.0
  pitch: float = 0.0
  zoom: float = 1.0  # 2 shows half the width
  light: tuple[float, float, float, float] | None = None  # ambient, diffuse, and the yaw and pitch it comes from
  surface: bool = False  # by `render_surface`
  pane: str = "image"  # the large one
  step: int = 0  # of the model
  playing: bool = False


class Shapes:
  """The codes of a model's shapes: of seeds, or of a codes file."""

  def __init__(self, model: Model, subjects: Instances | None = None):
    """`subjects`: the shapes that the numbers of a view select; None: the numbers are seeds."""
    self.model, self._subjects = model, subjects
    self._known: dict[int | None, Codes] = {}  # None: the mean

  def blend(self, view: View) -> Codes:
    """The codes [1, ...] of a view: truncated, on the straight line between the codes of its two shapes.

    Truncation is applied here, where it is an ordinary number; in the model it is part of the compiled programs.
    """
    mean, first = self._codes(None), self._codes(view.first)
    second = self._codes(view.second) if view.mix else first

    def mixed(mean: np.ndarray, first: np.ndarray, second: np.ndarray) -> Array:
      code = first + np.float32(view.mix) * (second - first)
      return jnp.asarray(mean + np.float32(view.truncation) * (code - mean))

    return Codes(tuple(map(mixed, mean.values, first.values, second.values)))

  def _codes(self, number: int | None) -> Codes:
    if number not in self._known:
      if self._subjects is None:
        latents = from_seeds(self.model, (number or 0,)).latents
      else:
        latents = self._subjects[(number or 0) % len(self._subjects)].latents
      # The mean does not depend on the latent.
      codes = self.model.codes(latents, truncation=0.0 if number is None else 1.0)
      self._known[number] = jax.tree.map(np.asarray, codes)
    return self._known[number]


def draw(shapes: Shapes, view: View, resolution: int) -> dict[str, Float[np.ndarray, "h w 3"]]:
  """The pictures of a view, by name: image and, if the method has them, albedo, shading, normals and depth."""
  cameras = cameras_of(shapes.model, view, resolution)
  render = shapes.model.render_surface if view.surface else shapes.model.render
  rendering = render(shapes.blend(view), cameras, lights_of(view), resolution=resolution)
  return {name: picture[0] for name, picture in pictures(rendering, cameras).items()}


def cameras_of(model: Model, view: View, resolution: int) -> Cameras:
  """The one camera of a view, for a picture whose outer edges are those of the field of view at any resolution.

  Zoom narrows the field of view: the camera stays where the model was trained.
  """
  cameras = model.cameras_at(*(jnp.asarray([angle], jnp.float32) for angle in (view.yaw, view.pitch)))
  # Of most methods the centres of the outermost pixels lie on those edges (see geometry.pixels).
  corners = model.method.align == "corners"
  width = ((resolution - 1) / resolution if corners else 1.0) / view.zoom
  return dataclasses.replace(cameras, fov=2 * jnp.arctan(jnp.tan(cameras.fov / 2) * jnp.float32(width)))


def zooms(model: Model) -> bool:
  """Whether pictures can be zoomed: not those of a ShadeGAN that renders with its surface network, which is trained for
  one field of view."""
  return model.method.zooms


def lights_of(view: View) -> Lights | None:
  """The one light of a view, from the direction of a camera with its yaw and pitch; it must be in front (z > 0)."""
  if view.light is None:
    return None
  ambient, diffuse, yaw, pitch = view.light
  return lights_from_angles(yaw, pitch, np.array([ambient]), np.array([diffuse]))[0]


def light_numbers(lights: Lights | None) -> tuple[float, float, float, float] | None:
  """The `View.light` of the first of some lights: the inverse of `lights_of`."""
  if lights is None:
    return None
  ambient, diffuse = (float(strength[0]) for strength in (lights.ambient, lights.diffuse))
  yaw, pitch = (float(angle[0]) for angle in angles_from_lights(lights))
  return ambient, diffuse, yaw, pitch


def orbit_position(yaw: float, pitch: float, distance: float) -> Float[np.ndarray, "3"]:
  """The position of a camera that looks at the origin."""
  flat = math.cos(pitch)
  return distance * np.array([math.sin(yaw) * flat, math.sin(pitch), math.cos(yaw) * flat])


def orbit_of(position: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
  """(yaw, pitch, distance) of a camera at `position` that looks at `target`: the inverse of `orbit_position`."""
  x, y, z = (float(part) for part in position - target)
  distance = math.sqrt(x * x + y * y + z * z)
  pitch = math.asin(min(1.0, max(-1.0, y / max(distance, 1e-9))))
  return math.atan2(x, z), min(MAX_PITCH, max(-MAX_PITCH, pitch)), distance


def canvas_fov(fov: float, width: int, height: int) -> float:
  """Vertical field of view of a canvas whose large picture has the field of view `fov`."""
  return 2 * math.atan(math.tan(fov / 2) * height / _large(width, height))


def compose(
  panes: Mapping[str, Float[np.ndarray, "_ _ 3"]], main: str, width: int, height: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
  """A canvas of these pixels: the pane `main` large in the middle, the others small with labels, to its left or below.

  An unknown `main` is the first pane.
  """
  main = main if main in panes else next(iter(panes))
  canvas = Image.new("RGB", (width, height), "white")
  side = _large(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  canvas.paste(_scaled(panes[main], side), (left, top))
  draw_on, font = ImageDraw.Draw(canvas), ImageFont.load_default()
  small = side // _SMALL
  for k, (name, picture) in enumerate((name, picture) for name, picture in panes.items() if name != main):
    across = width >= height
    x, y = (left - small, top + k * small) if across else (left + k * small, top + side)
    inner = max(1, small - _CAPTION)
    canvas.paste(_scaled(picture, inner), (x + (small - inner) // 2, y))
    draw_on.text((x + small // 2, y + inner), name, fill=_INK, font=font, anchor="mt")
  return np.asarray(canvas).copy()


def _large(width: int, height: int) -> int:
  """Size of the large picture in pixels, such that a column (or row) of small ones fits on both sides."""
  longer, shorter = max(width, height), min(width, height)
  return max(1, min(shorter, int(longer / (1 + 2 / _SMALL))))


def _scaled(picture: np.ndarray, side: int) -> Image.Image:
  return Image.fromarray(to_uint8(picture)).resize((side, side), Image.Resampling.BICUBIC)
