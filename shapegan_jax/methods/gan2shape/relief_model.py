"""The model of an image: networks predict canonical depth, albedo, view and light, and a renderer reconstructs the
image from them (Unsup3D, Wu et al. 2020, sections 3.1 and 3.2; GAN2Shape, Pan et al. 2021, section 3.1).

A relief is a surface given by its canonical depth map. Everything is in the frame of `geometry.relief` (x right, y
down, z away from the camera); `Reconstruction`, which the tools read, states the units of each field.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.geometry.relief import (
  PUBLISHED_EPSILON,
  ReliefCamera,
  move,
  project,
  relief_normals,
  rotations,
  unproject,
)
from shapegan_jax.networks.depth_net import MapNet, depth_from_raw
from shapegan_jax.networks.image_encoders import OffsetEncoder, VectorEncoder
from shapegan_jax.rendering.rasterizer import warp_depth
from shapegan_jax.rendering.warping import canonical_grid, sample_image, view_grid
from shapegan_jax.rng import stream
from shapegan_jax.types import Key, Lights, PyTree, record

_MIN_SHADING = 0.1  # lower bound of the divisor in unlighting: dark pixels carry little information about albedo
_OCCLUSION_TOLERANCE = 0.05  # of the depth range: points farther behind the nearest surface are occluded
_MIN_FACING = 0.3  # cosine between normal and optical axis below which a surface is too oblique to give texture


@dataclasses.dataclass(frozen=True)
class ReliefConfig:
  """The camera, the depth range and the units of views.

  Args:
    fov_deg: field of view.
    centre: distance from the camera of the point about which views rotate.
    near, far: range of canonical depth.
    margin: by how much depth may leave that range in other views.
    angle_deg, shift, shift_depth: what 1 means in the view network's output, for rotations (components 0 to 2), shifts
      in x and y (3, 4), and the shift in z (5).
    supersample: samples per pixel and axis.
    nr_compat: reproduce the released code: images displaced by half a pixel with a smaller valid area
      (`rendering.rasterizer`), normals 0.3 % too short, and a border blended with weight 1.02.
    mean_depth: shift each depth map so that its mean is the middle of the range (published, since an image does not
      tell the distance); without it the network determines the distance as well.
  """

  fov_deg: float = 10.0
  centre: float = 1.0
  near: float = 0.9
  far: float = 1.1
  margin: float = 0.1
  angle_deg: float = 60.0
  shift: float = 0.1
  shift_depth: float = 0.0
  supersample: int = 2
  nr_compat: bool = False
  mean_depth: bool = True


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The five networks.

  Args:
    model: a trained GAN2Shape of these sizes to start from, as `--model` takes it; "": fresh networks.
    width: channels of the first layer of the depth and albedo networks (published: 64 for 64 pixels, 32 for 128).
    bottleneck: size of their bottleneck.
    encoder_width: channels of the first layer of the view and light networks (published: as `width`).
    offset_width: channels of the first layer of the offset encoder (published: 32).
    view_mean, light_mean: [6] and [4], added to the networks' outputs in (-1, 1).
  """

  model: str = ""
  width: int = 64
  bottleneck: int = 256
  encoder_width: int = 64
  offset_width: int = 32
  view_mean: tuple[float, ...] = (0.0,) * 6
  light_mean: tuple[float, ...] = (0.0,) * 4


@record
class CanonicalMaps:
  """The object in the canonical (frontal) view: what does not depend on view and light."""

  depth: Array  # [*b, s, s]
  albedo: Array  # [*b, s, s, 3] in [-1, 1]
  normals: Array  # [*b, s, s, 3] in this frame, pointing inward


@record
class RenderedView:
  """A relief rendered in a view."""

  image: Array  # [*b, s, s, 3] in [-1, 1]
  depth: Array  # [*b, s, s]
  valid: Array  # [*b, s, s] 1 where the relief is visible
  grid: Array  # [*b, s, s, 2] canonical coordinates of each pixel


@record
class Reconstruction:
  """What the networks predict for images, and the images rendered from it. Canonical maps are frontal."""

  canonical: CanonicalMaps
  views: Array  # [b, 6] radians and units of depth, `geometry.relief`
  lights: Array  # [b, 4] codes in the frame of `geometry.relief`; `lights_to_world` makes them `types.Lights`
  shading: Array  # [b, s, s, 1] canonical
  rendered: RenderedView  # in the predicted view: the reconstructed image, its depth and its valid area


@dataclasses.dataclass(frozen=True)
class ReliefModel:
  """The five networks, whose parameters are dicts by their names, and the renderer."""

  resolution: int
  latent_size: int
  relief: ReliefConfig
  networks: NetworkConfig

  @cached_property
  def camera(self) -> ReliefCamera:
    """The camera of all images."""
    return ReliefCamera(self.resolution, self.relief.fov_deg, self.relief.centre)

  @cached_property
  def modules(self) -> dict[str, MapNet | VectorEncoder | OffsetEncoder]:
    """The networks by name."""
    net, size = self.networks, self.resolution
    return {
      "depth": MapNet(size, net.width, net.bottleneck, features=1),
      "albedo": MapNet(size, net.width, net.bottleneck, features=3),
      "view": VectorEncoder(6, size, net.encoder_width),
      "light": VectorEncoder(4, size, net.encoder_width),
      "offset": OffsetEncoder(self.latent_size, size, net.offset_width),
    }

  def init(self, key: Key) -> dict[str, PyTree]:
    """Fresh parameters."""
    return {name: module.init_params(stream(key, name))["params"] for name, module in self.modules.items()}

  def apply(self, params: dict[str, PyTree], name: str, images: Float[Array, "b s s 3"]) -> Array:
    """The output of a network."""
    return self.modules[name].apply({"params": params[name]}, images)

  def depth_without_border(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Float[Array, "b s s"]:
    """Canonical depth before the border is applied, in [near, far]."""
    raw = self.apply(params, "depth", images)
    return depth_from_raw(raw, near=self.relief.near, far=self.relief.far, centre=self.relief.mean_depth)

  def predict_canonical(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> CanonicalMaps:
    """Canonical depth with its border, albedo and normals."""
    albedo = jnp.tanh(self.apply(params, "albedo", images))
    return self.with_normals(self.with_border(self.depth_without_border(params, images)), albedo)

  def with_normals(self, depth: Float[Array, "*b s s"], albedo: Float[Array, "*b s s 3"]) -> CanonicalMaps:
    """Canonical maps with the normals of the depth map."""
    epsilon = PUBLISHED_EPSILON if self.relief.nr_compat else 0.0
    return CanonicalMaps(depth, albedo, relief_normals(self.camera, depth, epsilon=epsilon))

  def with_border(self, depth: Float[Array, "*b s s"]) -> Float[Array, "*b s s"]:
    """Depth with its two outermost columns on either side fixed at 0.7 far + 0.3 near, behind the object."""
    column = jnp.arange(self.resolution)
    outside = (column < 2) | (column >= self.resolution - 2)
    weight = jnp.where(outside, 1.02 if self.relief.nr_compat else 1.0, 0.0).reshape((1,) * (depth.ndim - 1) + (-1,))
    return depth * (1 - weight) + weight * (0.7 * self.relief.far + 0.3 * self.relief.near)

  def predict_views(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Float[Array, "b 6"]:
    """The views of images, in the units of the view network."""
    return self.apply(params, "view", images) + _as_row(self.networks.view_mean)

  def denormalize_views(self, views: Float[Array, "*b 6"]) -> Float[Array, "*b 6"]:
    """From the units of the view network to radians and units of depth."""
    angle, shift = math.radians(self.relief.angle_deg), self.relief.shift
    units = jnp.array([angle, angle, angle, shift, shift, self.relief.shift_depth])
    return views * units.reshape((1,) * (views.ndim - 1) + (6,))

  def predict_lights(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Float[Array, "b 4"]:
    """The light codes of images; ambient and diffuse may leave [0, 1]."""
    return self.apply(params, "light", images) + _as_row(self.networks.light_mean)

  def with_image_texture(
    self,
    canonical: CanonicalMaps,
    images: Float[Array, "b s s 3"],
    views: Float[Array, "b 6"],
    lights: Float[Array, "b 4"],
  ) -> tuple[CanonicalMaps, Float[Array, "b s s"]]:
    """(the relief with its albedo taken from images, `visible`).

    Images in these views (radians and units of depth) and lights are divided by their shading and projected onto the
    relief. `visible` is 1 where the surface is neither occluded nor too oblique; it has no gradient. Elsewhere the
    albedo is that of the occluder.
    """
    moved = move(unproject(self.camera, canonical.depth), views, centre=self.relief.centre)
    grid = project(self.camera, moved)
    color = sample_image(images, grid) / 2 + 0.5
    codes = Lights(lights[..., None, None, :])
    shading = codes.ambient + codes.diffuse * lambert_cosines(canonical.normals, codes.code)
    albedo = jnp.clip(color / jnp.maximum(shading, _MIN_SHADING)[..., None], 0.0, 1.0)
    nearest = sample_image(self._warp(canonical.depth, views)[0][..., None], grid)[..., 0]
    facing = jnp.sum(rotations(views)[..., None, None, 2, :] * canonical.normals, -1)
    occluded = moved[..., 2] - nearest > _OCCLUSION_TOLERANCE * (self.relief.far - self.relief.near)
    visible = jnp.logical_not(occluded) & (facing > _MIN_FACING)
    return dataclasses.replace(canonical, albedo=albedo * 2 - 1), jax.lax.stop_gradient(visible.astype(color.dtype))

  def render_view(
    self, depth: Float[Array, "b s s"], texture: Float[Array, "b s s 3"], views: Float[Array, "b 6"]
  ) -> RenderedView:
    """Canonical maps in views (radians and units of depth). The texture is clipped to [-1, 1] after warping."""
    warped, valid = self._warp(depth, views)
    grid = canonical_grid(self.camera, warped, views)
    image = jnp.clip(sample_image(texture, grid), -1.0, 1.0)
    return RenderedView(image, warped, jax.lax.stop_gradient(valid.astype(depth.dtype)), grid)

  def _warp(self, depth: Float[Array, "b s s"], views: Float[Array, "b 6"]) -> tuple[Array, Array]:
    relief = self.relief
    return warp_depth(
      self.camera,
      depth,
      views,
      near=relief.near,
      far=relief.far,
      margin=relief.margin,
      nr_compat=relief.nr_compat,
      supersample=relief.supersample,
    )

  def canonical_mask(
    self, depth: Float[Array, "b s s"], mask: Float[Array, "b s s"], views: Float[Array, "b 6"]
  ) -> Float[Array, "b s s"]:
    """Masks of images in these views, resampled to the canonical grid."""
    return sample_image(mask[..., None], view_grid(self.camera, depth, views))[..., 0]

  def reconstruct(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Reconstruction:
    """The reconstruction of images by networks with shared weights."""
    canonical = self.predict_canonical(params, images)
    views = self.denormalize_views(self.predict_views(params, images))
    lights = self.predict_lights(params, images)
    texture, shading = shade(canonical, lights)
    rendered = self.render_view(canonical.depth, texture, views)
    return Reconstruction(canonical, views, lights, shading[..., None], rendered)


def shade(
  canonical: CanonicalMaps, lights: Float[Array, "*b 4"]
) -> tuple[Float[Array, "*b s s 3"], Float[Array, "*b s s"]]:
  """(shaded texture in [-1, 1], beyond it where over-exposed; shading)."""
  lights = Lights(lights[..., None, None, :])
  shading = lights.ambient + lights.diffuse * lambert_cosines(canonical.normals, lights.code)
  return (canonical.albedo / 2 + 0.5) * shading[..., None] * 2 - 1, shading


def lambert_cosines(normals: Float[Array, "*b s s 3"], lights: Float[Array, "*b _ _ 4"]) -> Float[Array, "*b s s"]:
  """max(0, normal . light direction)."""
  return jnp.maximum(jnp.sum(normals * Lights(lights).direction, -1), 0.0)


def views_from_angles(yaw: Float[Array, "*b"], pitch: Float[Array, "*b"]) -> Float[Array, "*b 6"]:
  """The views of world cameras at these angles: Rx(pitch) Ry(yaw), expressed as `geometry.relief`'s Rz Ry Rx."""
  (sy, cy), (sp, cp) = ((jnp.sin(angle), jnp.cos(angle)) for angle in (yaw, pitch))
  zero = jnp.zeros_like(yaw)
  return jnp.stack([jnp.arctan2(sp, cp * cy), jnp.arcsin(cp * sy), jnp.arctan2(sp * sy, cy), zero, zero, zero], -1)


def _as_row(values: tuple[float, ...]) -> Array:
  return jnp.array(values).reshape(1, -1)
