"""Renderings of an instance for `shapegan lift`, as numpy: its maps, novel views and lights, and its mesh."""

from __future__ import annotations

import dataclasses

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
  NovelViews,
  reconstruct_with_mask,
  render_novel_views,
  select_instance,
  sheet_lights,
  sheet_views,
  video_lights,
  video_views,
)
from shapegan_jax.methods.gan2shape.relief_model import Reconstruction
from shapegan_jax.methods.gan2shape.settings import ViewPrior
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.reporting.previews import pictures, to_uint8
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Key, PyTree, Rendering

_CHUNK = 16  # images per call of a compiled program
_BORDER = 2  # outermost columns, whose depth is fixed and does not belong to the object

Images = Float[np.ndarray, "_ _ _ 3"]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The networks' predictions for one instance, as numpy without a leading axis."""

  reconstruction: Reconstruction
  mask: np.ndarray  # [s, s] canonical object mask
  front: Rendering  # [1, s, s] the canonical view in the predicted light


_sheet_views, _sheet_lights = jax.jit(sheet_views), jax.jit(sheet_lights)
_video_views = jax.jit(video_views, static_argnames="frames")
_video_lights = jax.jit(video_lights, static_argnames="frames")


class InstanceRenderer:
  """Renders the instances of one run; every program is compiled once.

  With `masked`, renderings show only what is inside the instance's mask. A default ellipse would crop the object.
  """

  def __init__(self, method: Gan2Shape, gan: FrozenGan, *, masked: bool):
    self.method, self.gan = method, gan
    self._render = jax.jit(lambda *arguments: render_novel_views(method, *arguments, masked=masked))

    def predict(params: PyTree, targets: Targets) -> tuple[Reconstruction, Array, Rendering]:
      reconstruction, mask = reconstruct_with_mask(method, params, targets, masked=True)
      visible = mask if masked else jnp.ones_like(mask)
      front = method.render_relief(reconstruction.canonical, reconstruction.lights, jnp.zeros((1, 6)), visible)
      return reconstruction, mask, front

    def sample(prior: ViewPrior, own_light: Array, key: Key) -> tuple[Array, Array]:
      views = method.model.denormalize_views(method.views.sample(stream(key, "views"), prior, _CHUNK))
      lights = method.lights.sample(stream(key, "lights"), jnp.repeat(own_light, _CHUNK, 0))
      return views, lights_to_world(lights)

    self._predict, self._sample = jax.jit(predict), jax.jit(sample)
    self.select_instance = jax.jit(select_instance)

  def predict(self, params: PyTree, targets: Targets) -> Prediction:
    """The reconstruction, object mask and frontal view of an instance."""
    reconstruction, mask, front = jax.device_get(self._predict(params, targets))
    reconstruction, mask = jax.tree.map(lambda x: x[0], (reconstruction, mask))
    return Prediction(reconstruction, mask, front)

  def maps(self, prediction: Prediction, targets: Targets) -> dict[str, Float[np.ndarray, "s s 3"]]:
    """The input image, the GAN's reconstruction, the rendered one, and the canonical maps, in [0, 1]."""
    front = pictures(prediction.front, self.method.cameras_at(jnp.zeros(1), jnp.zeros(1)))
    images = {
      "input": np.asarray(targets.instances.image[0]) / 2 + 0.5,
      "GAN": np.asarray(targets.gan_image[0]) / 2 + 0.5,
      "rendered": prediction.reconstruction.rendered.image / 2 + 0.5,
    }
    return images | {name: front[name][0] for name in ("albedo", "normals", "shading", "depth")}

  def novel_views(self, params: PyTree, targets: Targets, views: ArrayLike, lights: ArrayLike) -> NovelViews:
    """`novel_views.render_novel_views` in chunks, with lights in the world frame; numpy."""
    inputs = (np.asarray(views), np.asarray(lights))
    parts = [
      jax.device_get(self._render(params, targets, self.gan, *some)) for some, _ in padded_batches(inputs, _CHUNK)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(views)], *parts)

  def sample_pairs(self, params: PyTree, targets: Targets, prior: ViewPrior, number: int) -> dict[str, Images]:
    """Pseudo samples in views and lights of the priors, as in step 2, and their projected samples."""
    own_light = self._predict(params, targets)[0].lights
    key = stream(root_key(0), "steps", number)
    rendered = self.novel_views(params, targets, *self._sample(prior, own_light, key))
    return {"pseudo": rendered.pseudo / 2 + 0.5, "projected": rendered.projected / 2 + 0.5}

  def rotations(
    self, params: PyTree, targets: Targets, prediction: Prediction, frames: int | None = None
  ) -> dict[str, Images]:
    """The instance in the views of the sheet, or in the frames of a video, by its mesh and by the generator."""
    views = _sheet_views() if frames is None else _video_views(frames)
    lights = np.repeat(np.asarray(self.light_code(prediction))[None], len(views), 0)
    return _by_kind(self.novel_views(params, targets, views, lights))

  def relightings(
    self, params: PyTree, targets: Targets, prediction: Prediction, frames: int | None = None
  ) -> dict[str, Images]:
    """The instance in its predicted view, in the lights of the sheet or of a video."""
    own_light = self.light_code(prediction)
    lights = _sheet_lights(own_light) if frames is None else _video_lights(own_light, frames)
    views = np.repeat(prediction.reconstruction.views[None], len(lights), 0)
    return _by_kind(self.novel_views(params, targets, views, lights))

  def mesh(self, prediction: Prediction) -> Mesh:
    """The relief inside the object mask, with its albedo."""
    canonical = prediction.reconstruction.canonical
    albedo = to_uint8(canonical.albedo / 2 + 0.5)
    return relief_mesh(self.method.model.camera, canonical.depth, albedo, self.object_mask(prediction))

  def object_mask(self, prediction: Prediction) -> Bool[np.ndarray, "s s"]:
    """The pixels of the canonical maps that belong to the object."""
    inside = prediction.mask > 0.5
    inside[:, :_BORDER] = inside[:, -_BORDER:] = False
    return inside

  def light_code(self, prediction: Prediction) -> Array:
    """The predicted light code, in the world frame."""
    return lights_to_world(jnp.asarray(prediction.reconstruction.lights))

  def pose_deg(self, prediction: Prediction) -> tuple[float, float]:
    """(yaw, pitch) of the camera in degrees, according to the predicted view."""
    yaw, pitch = camera_poses(jnp.asarray(prediction.reconstruction.views))
    return float(np.degrees(yaw)), float(np.degrees(pitch))


def _by_kind(rendered: NovelViews) -> dict[str, Images]:
  return {"3D": rendered.mesh.rgb, "GAN": rendered.projected / 2 + 0.5}
