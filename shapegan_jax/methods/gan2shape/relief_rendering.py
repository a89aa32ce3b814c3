"""What the loop and the tools may ask of a method whose shapes are reliefs read off pictures.

A latent is one number in [0, 1), which names a subject of the run: number floor(n latent) of n. Its codes are the
subject's picture and number; with shared weights any picture of the trained size may stand there.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.relief import lights_to_world, normals_to_world
from shapegan_jax.methods.gan2shape.engine_settings import StagedState
from shapegan_jax.methods.gan2shape.relief_model import Canonical, Reconstruction, ReliefModel, lit, views_at
from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rendering, Scene


@dataclasses.dataclass(frozen=True)
class ReliefPictures(abc.ABC):
  """See the module's docstring. `instance`: every subject has weights of its own."""

  model: ReliefModel
  instance: bool

  def params_of(self, state: StagedState, *, ema: bool = True) -> PyTree:
    """The networks, of which there is no average, and the subjects' pictures (8 bits); `ema=False`: the networks."""
    if not ema:
      return state.params
    image = jnp.round(127.5 * state.targets.subjects.image + 127.5).astype(jnp.uint8)
    return {"networks": state.params, "pictures": image}

  def sample_latents(self, key: Key, n: int) -> Array:
    """[n, 1]: different subjects as long as there are enough."""
    return ((jax.random.permutation(key, n) + jax.random.uniform(key, (n,))) / n)[:, None]

  def sample_cameras(self, key: Key | None, n: int) -> Cameras:
    """Of the view prior of the config its yaw and pitch."""
    mean, deviation = (jnp.array(x[:2]) for x in (self.views.mean, self.views.deviation))
    noise = jnp.zeros((n, 2)) if key is None else jax.random.normal(key, (n, 2))
    angles = math.radians(self.model.relief.angle_deg) * (mean[None] + deviation[None] * noise)
    return self.cameras_at(self.views.scale * angles[:, 1], angles[:, 0])

  def cameras_at(self, yaw: Array, pitch: Array) -> Cameras:
    """Cameras with the relief camera's field of view, at its distance from the point it turns about."""
    relief = self.model.relief
    return orbit_cameras(yaw, pitch, fov=math.radians(relief.fov_deg), radius=relief.centre)

  def sample_lights(self, key: Key | None, n: int) -> None:
    """None: a picture is shown in its own light, which is found, not drawn."""
    del key, n

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> Codes:
    """(pictures [n, s, s, 3] in [-1, 1], numbers [n] of the weights that read them)."""
    del truncation
    if isinstance(latents, Codes):
      return latents
    pictures = params["pictures"]
    number = jnp.clip(jnp.floor(latents[:, 0] * len(pictures)).astype(jnp.int32), 0, len(pictures) - 1)
    return Codes((pictures[number].astype(jnp.float32) / 127.5 - 1, number))

  def reconstruct(self, params: dict[str, PyTree], images: Array) -> Reconstruction:
    """The explanation of pictures [n, s, s, 3] in [-1, 1] by the networks, of which instances have n."""
    if not self.instance:
      return self.model.reconstruct(params, images)
    one = jax.vmap(lambda params, image: self.model.reconstruct(params, image[None]))(params, images)
    return jax.tree.map(lambda x: x[:, 0], one)

  def render(
    self,
    params: PyTree,
    scene: Scene,
    *,
    resolution: int,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    """Reliefs on white from the cameras' yaw and pitch (no other property of theirs), in their own lights or
    in the scene's.

    `extras`: "input", the pictures they were read off, and "recon", what explains them in their own views, in [0, 1].
    """
    del truncation, key
    picture, number = self.codes(params, scene.latents).values
    networks = params["networks"]
    if self.instance:
      networks = jax.tree.map(lambda x: x[number], networks)
    found = self.reconstruct(networks, picture)
    own = self.object_mask(picture)
    mask = self.model.canonical_mask(found.canonical.depth, own, found.views)
    codes = found.lights if scene.lights is None else lights_to_world(scene.lights.code)
    rendering = self.view_of(found.canonical, codes, views_at(scene.cameras.yaw, scene.cameras.pitch), mask)
    recon = _on_white(found.seen.image / 2 + 0.5, own * found.seen.valid)
    rendering = dataclasses.replace(rendering, extras={"input": picture / 2 + 0.5, "recon": recon})
    return jax.tree.map(lambda x: _resized(x, resolution), rendering)

  @abc.abstractmethod
  def object_mask(self, pictures: Array) -> Array:
    """[n, s, s] in [0, 1]: the part of pictures that is explained."""

  def view_of(self, canonical: Canonical, lights: Array, views: Array, mask: Array) -> Rendering:
    """Reliefs [n] in the frame of `geometry.relief`, lit and turned, as people are shown them."""
    texture, shading = lit(canonical, lights)
    seen = self.model.see(canonical.depth, texture, views)
    maps = [canonical.albedo / 2 + 0.5, shading[..., None], normals_to_world(canonical.normals), mask[..., None]]
    albedo, shading, normals, mask = jnp.split(sample_image(jnp.concatenate(maps, -1), seen.grid), (3, 4, 7), -1)
    acc = seen.valid * mask[..., 0]
    return Rendering(
      rgb=_on_white(seen.image / 2 + 0.5, acc),
      albedo=albedo * acc[..., None],
      shading=shading,
      normals=normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-6),
      depth=seen.depth,
      acc=acc,
    )

  def query(
    self,
    params: PyTree,
    latents: Array | Codes,
    points: Array,
    lights: Lights | None = None,
    viewdirs: Array | None = None,
  ) -> FieldSamples:
    """A relief is a surface and no field."""
    del params, latents, points, lights, viewdirs
    raise UserError("this model's shapes are reliefs and have no field to ask; shapegan lift writes their meshes")


def _on_white(color: Array, mask: Array) -> Array:
  return color * mask[..., None] + 1 - mask[..., None]


def _resized(maps: Any, size: int) -> Array:
  if maps.shape[1] == size:
    return maps
  return jax.image.resize(maps, (maps.shape[0], size, size, *maps.shape[3:]), "linear")
