"""What `shapegan lift` draws of a subject, as numpy: its maps, other views and lights both ways, its mesh."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from shapegan_jax.batches import padded_batches
from shapegan_jax.geometry.relief import camera_poses, lights_to_world
from shapegan_jax.meshing.meshes import Mesh
from shapegan_jax.meshing.reliefs import relief_mesh
from shapegan_jax.methods.gan2shape.engine_settings import Targets
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.novel_views import (
  Shots,
  circling,
  explain,
  sheet_lights,
  sheet_views,
  shoot,
  subject_of,
  swing,
)
from shapegan_jax.methods.gan2shape.relief_model import Reconstruction
from shapegan_jax.reporting.previews import pictures, to_uint8
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Key, PyTree, Rendering

_AT_ONCE = 16  # pictures of one program
_BORDER = 2  # outermost columns, which are laid over the depth and are nobody's shape

Pictures = Float[np.ndarray, "_ _ _ 3"]


@dataclasses.dataclass(frozen=True)
class Found:
  """What was read off one subject, as numpy without a leading axis."""

  reconstruction: Reconstruction
  mask: np.ndarray  # [s, s] canonical: the object
  front: Rendering  # [1, s, s] the canonical view in the subject's own light


_sheet_views, _sheet_lights = jax.jit(sheet_views), jax.jit(sheet_lights)
_swing, _circling = jax.jit(swing, static_argnames="frames"), jax.jit(circling, static_argnames="frames")


class Studio:
  """Draws subjects of one run; everything is compiled once.

  `masked`: pictures show only what the subject's mask holds. A mask that was guessed cuts off more than it helps.
  """

  def __init__(self, method: Gan2Shape, gan: Any, *, masked: bool):
    self.method, self.gan = method, gan
    self._shoot = jax.jit(lambda *arguments: shoot(method, *arguments, masked=masked))

    def read(params: PyTree, targets: Targets) -> tuple[Reconstruction, Array, Rendering]:
      found, mask = explain(method, params, targets, masked=True)
      shown = mask if masked else jnp.ones_like(mask)
      front = method.view_of(found.canonical, found.lights, jnp.zeros((1, 6)), shown)
      return found, mask, front

    def draw(prior: PyTree, own: Array, key: Key) -> tuple[Array, Array]:
      views = method.model.in_units(method.views.sample(stream(key, "views"), prior, _AT_ONCE))
      lights = method.relighting.sample(stream(key, "lights"), jnp.repeat(own, _AT_ONCE, 0))
      return views, lights_to_world(lights)

    self._read, self._draw = jax.jit(read), jax.jit(draw)
    self.subject_of = jax.jit(subject_of)

  def look(self, params: PyTree, targets: Targets) -> Found:
    """Everything about a subject that is no picture in another view or light."""
    found, mask, front = jax.device_get(self._read(params, targets))
    found, mask = jax.tree.map(lambda x: x[0], (found, mask))
    return Found(found, mask, front)

  def maps(self, found: Found, targets: Targets) -> dict[str, Float[np.ndarray, "s s 3"]]:
    """The input, what the generator shows for its latent, its reconstruction, and the canonical maps, in [0, 1]."""
    front = pictures(found.front, self.method.cameras_at(jnp.zeros(1), jnp.zeros(1)))
    seen = {
      "input": np.asarray(targets.subjects.image[0]) / 2 + 0.5,
      "generator": np.asarray(targets.rendition[0]) / 2 + 0.5,
      "rebuilt": found.reconstruction.seen.image / 2 + 0.5,
    }
    return seen | {name: front[name][0] for name in ("albedo", "normals", "shading", "depth")}

  def shots(self, params: PyTree, targets: Targets, views: ArrayLike, lights: ArrayLike) -> Shots:
    """`relief_views.shoot`, some at a time; lights in the world's frame. numpy."""
    asked = (np.asarray(views), np.asarray(lights))
    parts = [
      jax.device_get(self._shoot(params, targets, self.gan, *some)) for some, _ in padded_batches(asked, _AT_ONCE)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(views)], *parts)

  def samples(self, params: PyTree, targets: Targets, prior: PyTree, step: int) -> dict[str, Pictures]:
    """Drawings such as step 2 makes, in views and lights of the priors, and what the generator makes of them."""
    own = self._read(params, targets)[0].lights
    found = self.shots(params, targets, *self._draw(prior, own, stream(root_key(0), "steps", step)))
    return {"drawn": found.drawn / 2 + 0.5, "GAN": found.gan / 2 + 0.5}

  def rotations(self, params: PyTree, targets: Targets, found: Found, frames: int | None = None) -> dict[str, Pictures]:
    """The subject from the sheet's sides, or as the frames of a video, by its mesh and by the generator."""
    views = _sheet_views() if frames is None else _swing(frames)
    lights = np.repeat(np.asarray(self.own_light(found))[None], len(views), 0)
    return _both(self.shots(params, targets, views, lights))

  def relightings(
    self, params: PyTree, targets: Targets, found: Found, frames: int | None = None
  ) -> dict[str, Pictures]:
    """The subject as its picture shows it, in the sheet's lights or in one that goes around."""
    own = self.own_light(found)
    lights = _sheet_lights(own) if frames is None else _circling(own, frames)
    views = np.repeat(found.reconstruction.views[None], len(lights), 0)
    return _both(self.shots(params, targets, views, lights))

  def mesh(self, found: Found) -> Mesh:
    """The relief inside the subject's mask, with its albedo."""
    canonical = found.reconstruction.canonical
    albedo = to_uint8(canonical.albedo / 2 + 0.5)
    return relief_mesh(self.method.model.camera, canonical.depth, albedo, self.solid(found))

  def solid(self, found: Found) -> Bool[np.ndarray, "s s"]:
    """The part of the canonical maps that is the object's."""
    inside = found.mask > 0.5
    inside[:, :_BORDER] = inside[:, -_BORDER:] = False
    return inside

  def own_light(self, found: Found) -> Array:
    """The light code of the subject's picture, in the world's frame."""
    return lights_to_world(jnp.asarray(found.reconstruction.lights))

  def pose_deg(self, found: Found) -> tuple[float, float]:
    """(yaw, pitch) of the camera that took the subject's picture, in degrees."""
    yaw, pitch = camera_poses(jnp.asarray(found.reconstruction.views))
    return float(np.degrees(yaw)), float(np.degrees(pitch))


def _both(shots: Shots) -> dict[str, Pictures]:
  return {"3D": shots.mesh.rgb, "GAN": shots.gan / 2 + 0.5}
