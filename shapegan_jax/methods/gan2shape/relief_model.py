"""A picture explained as a relief: canonical depth and albedo, a view and a light, each read off it by a network, and
the way back to a picture (Unsup3D, Wu et al. 2020, section 3.1 and 3.2; GAN2Shape, Pan et al. 2021, section 3.1).

Everything is in the frame of `geometry.relief` (x right, y down, z away from the camera). Only `Reconstruction` is
shared with people and tools, and says so field by field.
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

_LEAST_SHADING = 0.1  # darker places are not brightened further: there is little to see in them
_BEHIND = 0.05  # of the range of depths: what lies farther behind the nearest surface is hidden
_EDGE_ON = 0.3  # cosine of the angle to the optical axis below which a picture says little of a place


@dataclasses.dataclass(frozen=True)
class ReliefConfig:
  """The camera, the range of depths and the units of views.

  `angle_deg`, `shift` and `shift_depth` are what 1 means in the first three, the fourth and fifth, and the last of a
  view network's numbers. `nr_compat` does as the released code does: pictures half a pixel off and with a smaller valid
  part (`rendering.rasterizer`), normals 0.3 % too short, and a border 1.02 times laid over the depth. `mean_depth`: a
  depth map's mean is the middle of the range (published, for pictures that do not say how far away things are); without
  it the network says where the object is, which turns about `centre`.
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
    model: a trained GAN2Shape to start from, as `--model` takes it, whose networks have these sizes; "": fresh ones.
    width: channels of the first layer of the depth and albedo networks (published: 64 for 64 pixels, 32 for 128).
    bottleneck: numbers in the middle of these.
    encoder_width: the first layer's of the view and light networks (published: as `width`).
    offset_width: the first layer's of the offset encoder (published: 32).
    view_mean, light_mean: [6] and [4], added to the networks' answers in (-1, 1).
  """

  model: str = ""
  width: int = 64
  bottleneck: int = 256
  encoder_width: int = 64
  offset_width: int = 32
  view_mean: tuple[float, ...] = (0.0,) * 6
  light_mean: tuple[float, ...] = (0.0,) * 4


@record
class Canonical:
  """What a picture's object is like, seen from the front: all that does not change with view and light."""

  depth: Array  # [*b, s, s]
  albedo: Array  # [*b, s, s, 3] in [-1, 1]
  normals: Array  # [*b, s, s, 3] this frame's: inward


@record
class Seen:
  """What a view shows of a relief."""

  image: Array  # [*b, s, s, 3] in [-1, 1]
  depth: Array  # [*b, s, s]
  valid: Array  # [*b, s, s] 1 where the view shows the relief
  grid: Array  # [*b, s, s, 2] where in the canonical picture


@record
class Reconstruction:
  """A picture's explanation, and what it explains. Canonical maps lie on the grid of the frontal view."""

  canonical: Canonical
  views: Array  # [b, 6] radians and units of depth, `geometry.relief`
  lights: Array  # [b, 4] codes in the frame of `geometry.relief`; `lights_to_world` makes them `types.Lights`
  shading: Array  # [b, s, s, 1] canonical
  seen: Seen  # in the picture's own view: the reconstruction, its depth, and where it is valid


@dataclasses.dataclass(frozen=True)
class ReliefModel:
  """The five networks (`params` by their names) and the renderer between them."""

  resolution: int
  latent_size: int
  relief: ReliefConfig
  networks: NetworkConfig

  @cached_property
  def camera(self) -> ReliefCamera:
    """The camera of all pictures."""
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
    """A network's answer."""
    return self.modules[name].apply({"params": params[name]}, images)

  def depth_inside(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Float[Array, "b s s"]:
    """Canonical depth before the border is laid over it: in [near, far]."""
    raw = self.apply(params, "depth", images)
    return depth_from_raw(raw, near=self.relief.near, far=self.relief.far, centre=self.relief.mean_depth)

  def canonical(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Canonical:
    """Depth with its border, albedo and normals."""
    albedo = jnp.tanh(self.apply(params, "albedo", images))
    return self.canonical_of(self.with_border(self.depth_inside(params, images)), albedo)

  def canonical_of(self, depth: Float[Array, "*b s s"], albedo: Float[Array, "*b s s 3"]) -> Canonical:
    """With the depth's normals."""
    epsilon = PUBLISHED_EPSILON if self.relief.nr_compat else 0.0
    return Canonical(depth, albedo, relief_normals(self.camera, depth, epsilon=epsilon))

  def with_border(self, depth: Float[Array, "*b s s"]) -> Float[Array, "*b s s"]:
    """The two outermost columns on either side are behind the object, at 0.7 far + 0.3 near: a place to hold on to."""
    column = jnp.arange(self.resolution)
    outside = (column < 2) | (column >= self.resolution - 2)
    share = jnp.where(outside, 1.02 if self.relief.nr_compat else 1.0, 0.0).reshape((1,) * (depth.ndim - 1) + (-1,))
    return depth * (1 - share) + share * (0.7 * self.relief.far + 0.3 * self.relief.near)

  def views(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Float[Array, "b 6"]:
    """The views in which pictures show their reliefs, in a view network's own units."""
    return self.apply(params, "view", images) + _row(self.networks.view_mean)

  def in_units(self, views: Float[Array, "*b 6"]) -> Float[Array, "*b 6"]:
    """From a view network's units to radians and units of depth."""
    angle, shift = math.radians(self.relief.angle_deg), self.relief.shift
    units = jnp.array([angle, angle, angle, shift, shift, self.relief.shift_depth])
    return views * units.reshape((1,) * (views.ndim - 1) + (6,))

  def lights(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Float[Array, "b 4"]:
    """The light codes of pictures; ambient and diffuse may leave [0, 1]."""
    return self.apply(params, "light", images) + _row(self.networks.light_mean)

  def laid_on(
    self, canonical: Canonical, images: Float[Array, "b s s 3"], views: Float[Array, "b 6"], lights: Float[Array, "b 4"]
  ) -> tuple[Canonical, Float[Array, "b s s"]]:
    """(the relief with pictures in these views (radians and units of depth) and lights for its albedo, `shown`).

    Pictures are unlit and laid on the relief. `shown` is 1 where they show it, neither behind something nearer nor
    almost edge on, and has no gradient; elsewhere the albedo is that of what hides the place.
    """
    moved = move(unproject(self.camera, canonical.depth), views, centre=self.relief.centre)
    grid = project(self.camera, moved)
    color = sample_image(images, grid) / 2 + 0.5
    codes = Lights(lights[..., None, None, :])
    shading = codes.ambient + codes.diffuse * cosines(canonical.normals, codes.code)
    albedo = jnp.clip(color / jnp.maximum(shading, _LEAST_SHADING)[..., None], 0.0, 1.0)
    nearest = sample_image(self._warped(canonical.depth, views)[0][..., None], grid)[..., 0]
    facing = jnp.sum(rotations(views)[..., None, None, 2, :] * canonical.normals, -1)
    hidden = moved[..., 2] - nearest > _BEHIND * (self.relief.far - self.relief.near)
    shown = jnp.logical_not(hidden) & (facing > _EDGE_ON)
    return dataclasses.replace(canonical, albedo=albedo * 2 - 1), jax.lax.stop_gradient(shown.astype(color.dtype))

  def see(self, depth: Float[Array, "b s s"], texture: Float[Array, "b s s 3"], views: Float[Array, "b 6"]) -> Seen:
    """Canonical maps in views (radians and units of depth). The texture is in [-1, 1], clipped only in the view."""
    turned, valid = self._warped(depth, views)
    grid = canonical_grid(self.camera, turned, views)
    image = jnp.clip(sample_image(texture, grid), -1.0, 1.0)
    return Seen(image, turned, jax.lax.stop_gradient(valid.astype(depth.dtype)), grid)

  def _warped(self, depth: Float[Array, "b s s"], views: Float[Array, "b 6"]) -> tuple[Array, Array]:
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
    """A mask of pictures in these views, on the canonical grid."""
    return sample_image(mask[..., None], view_grid(self.camera, depth, views))[..., 0]

  def reconstruct(self, params: dict[str, PyTree], images: Float[Array, "b s s 3"]) -> Reconstruction:
    """The explanation of pictures by networks that share their weights."""
    canonical, views = self.canonical(params, images), self.in_units(self.views(params, images))
    lights = self.lights(params, images)
    texture, shading = lit(canonical, lights)
    return Reconstruction(canonical, views, lights, shading[..., None], self.see(canonical.depth, texture, views))


def lit(canonical: Canonical, lights: Float[Array, "*b 4"]) -> tuple[Float[Array, "*b s s 3"], Float[Array, "*b s s"]]:
  """(texture in [-1, 1] or beyond where the light is too bright, shading): albedo in [0, 1] times shading, restated."""
  lights = Lights(lights[..., None, None, :])
  shading = lights.ambient + lights.diffuse * cosines(canonical.normals, lights.code)
  return (canonical.albedo / 2 + 0.5) * shading[..., None] * 2 - 1, shading


def cosines(normals: Float[Array, "*b s s 3"], lights: Float[Array, "*b _ _ 4"]) -> Float[Array, "*b s s"]:
  """max(0, normal . light)."""
  return jnp.maximum(jnp.sum(normals * Lights(lights).direction, -1), 0.0)


def views_at(yaw: Float[Array, "*b"], pitch: Float[Array, "*b"]) -> Float[Array, "*b 6"]:
  """The views that show what the world's cameras at these angles see: Rx(pitch) Ry(yaw) in `relief`'s Rz Ry Rx."""
  (sy, cy), (sp, cp) = ((jnp.sin(angle), jnp.cos(angle)) for angle in (yaw, pitch))
  zero = jnp.zeros_like(yaw)
  return jnp.stack([jnp.arctan2(sp, cp * cy), jnp.arcsin(cp * sy), jnp.arctan2(sp * sy, cy), zero, zero, zero], -1)


def _row(values: tuple[float, ...]) -> Array:
  return jnp.array(values).reshape(1, -1)
