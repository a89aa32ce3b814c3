"""The rendering half of the `Method` protocol for a method whose shapes are reliefs predicted from images.

A latent is one number in [0, 1) that selects an instance of the run: number floor(n * latent) of n. Its codes are the
input image and the index of the instance; with shared weights any image of the training resolution may be used.
"""

from __future__ import annotations

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.relief import lights_to_world, normals_to_world
from shapegan_jax.methods.gan2shape.engine_settings import StagedState
from shapegan_jax.methods.gan2shape.relief_model import (
  CanonicalMaps,
  Reconstruction,
  ReliefModel,
  shade,
  views_from_angles,
)
from shapegan_jax.methods.gan2shape.settings import ViewConfig
from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rendering, Scene


@dataclasses.dataclass(frozen=True)
class ReliefRenderer(abc.ABC):
  """Mixin of the method: latents, cameras and renderings. `instance_specific`: every instance has its own weights."""

  has_shape = True
  has_surface = False

  model: ReliefModel
  views: ViewConfig
  instance_specific: bool

  def params_of(self, state: StagedState, *, ema: bool = True) -> PyTree:
    """The networks, which have no average, and the input images in 8 bits; with `ema=False` the networks alone."""
    if not ema:
      return state.params
    image = jnp.round(127.5 * state.targets.instances.image + 127.5).astype(jnp.uint8)
    return {"networks": state.params, "pictures": image}

  def sample_latents(self, key: Key, n: int) -> Array:
    """[n, 1]: distinct instances, if there are enough."""
    return ((jax.random.permutation(key, n) + jax.random.uniform(key, (n,))) / n)[:, None]

  def sample_cameras(self, key: Key | None, n: int) -> Cameras:
    """Cameras with the yaw and pitch of the configured view prior."""
    mean, deviation = (jnp.array(x[:2]) for x in (self.views.mean, self.views.deviation))
    noise = jnp.zeros((n, 2)) if key is None else jax.random.normal(key, (n, 2))
    angles = math.radians(self.model.relief.angle_deg) * (mean[None] + deviation[None] * noise)
    return self.cameras_at(self.views.scale * angles[:, 1], angles[:, 0])

  def cameras_at(self, yaw: Array, pitch: Array) -> Cameras:
    """Cameras with the field of view of the relief camera, at its distance from the centre of rotation."""
    relief = self.model.relief
    return orbit_cameras(yaw, pitch, fov=math.radians(relief.fov_deg), radius=relief.centre)

  def sample_lights(self, key: Key | None, n: int) -> None:
    """None: images are rendered in their predicted light, which is not sampled."""
    del key, n

  def codes(self, params: PyTree, latents: Array | Codes, *, truncation: float = 1.0) -> Codes:
    """(images [n, s, s, 3] in [-1, 1], indices [n] of the instances)."""
    del truncation
    if isinstance(latents, Codes):
      return latents
    images = params["pictures"]
    index = jnp.clip(jnp.floor(latents[:, 0] * len(images)).astype(jnp.int32), 0, len(images) - 1)
    return Codes((images[index].astype(jnp.float32) / 127.5 - 1, index))

  def reconstruct(self, params: dict[str, PyTree], images: Array) -> Reconstruction:
    """The reconstruction of images [n, s, s, 3] in [-1, 1]; instance-specific networks have a leading axis of n."""
    if not self.instance_specific:
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
    """Reliefs on white, in the predicted lights or the scene's. Of the cameras only yaw and pitch are used.

    `extras`: "input", the input images, and "recon", their reconstructions in the predicted views, both in [0, 1].
    """
    del truncation, key
    image, index = self.codes(params, scene.latents).values
    networks = params["networks"]
    if self.instance_specific:
      networks = jax.tree.map(lambda x: x[index], networks)
    found = self.reconstruct(networks, image)
    image_mask = self.object_mask(image)
    mask = self.model.canonical_mask(found.canonical.depth, image_mask, found.views)
    codes = found.lights if scene.lights is None else lights_to_world(scene.lights.code)
    views = views_from_angles(scene.cameras.yaw, scene.cameras.pitch)
    rendering = self.render_relief(found.canonical, codes, views, mask)
    recon = _on_white(found.rendered.image / 2 + 0.5, image_mask * found.rendered.valid)
    rendering = dataclasses.replace(rendering, extras={"input": image / 2 + 0.5, "recon": recon})
    return jax.tree.map(lambda x: _resized(x, resolution), rendering)

  @abc.abstractmethod
  def object_mask(self, images: Array) -> Array:
    """[n, s, s] in [0, 1]: the part of images that is reconstructed."""

  def render_relief(self, canonical: CanonicalMaps, lights: Array, views: Array, mask: Array) -> Rendering:
    """Reliefs [n] in lights and views in the frame of `geometry.relief`, rendered on white with world-frame normals."""
    texture, shading = shade(canonical, lights)
    rendered = self.model.render_view(canonical.depth, texture, views)
    maps = [canonical.albedo / 2 + 0.5, shading[..., None], normals_to_world(canonical.normals), mask[..., None]]
    albedo, shading, normals, mask = jnp.split(sample_image(jnp.concatenate(maps, -1), rendered.grid), (3, 4, 7), -1)
    acc = rendered.valid * mask[..., 0]
    return Rendering(
      rgb=_on_white(rendered.image / 2 + 0.5, acc),
      albedo=albedo * acc[..., None],
      shading=shading,
      normals=normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-6),
      depth=rendered.depth,
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
    """Not available: a relief is a surface without a volumetric field."""
    del params, latents, points, lights, viewdirs
    raise UserError(
      "query: the shapes of this model are depth maps and have no field; shapegan lift writes their meshes"
    )


def _on_white(color: Array, mask: Array) -> Array:
  return color * mask[..., None] + 1 - mask[..., None]


def _resized(maps: Array, size: int) -> Array:
  if maps.shape[1] == size:
    return maps
  return jax.image.resize(maps, (maps.shape[0], size, size, *maps.shape[3:]), "linear")
