"""The nouns of the package: array aliases, records that travel between parts, and the callback types.

Conventions (the whole package keeps them): batch axes come first and any leading shape works; the world is y up with
the object at the origin and `yaw = pitch = 0` looking at it from (0, 0, 1); angles are radians; `rgb` and `albedo`
are in [0, 1]; `distance` is measured along a ray, `depth` along the optical axis. Every record is a pytree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jaxtyping import Array, PRNGKeyArray

Key = PRNGKeyArray
PyTree = Any
T = TypeVar("T")


def record(cls: type[T]) -> type[T]:
  """Frozen dataclass whose fields are all pytree children (`None` fields are empty subtrees).

  Rebuilding one from leaves does not run `__init__`: jax fills trees with things that are no arrays (shapes, axes).
  """
  cls = dataclasses.dataclass(frozen=True)(cls)
  names = tuple(field.name for field in dataclasses.fields(cls))

  def flatten(self: T) -> tuple[list[tuple[Any, Any]], None]:
    return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], None

  def unflatten(_: None, children: tuple[Any, ...]) -> T:
    self = object.__new__(cls)
    for name, child in zip(names, children, strict=True):
      object.__setattr__(self, name, child)
    return self

  jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
  return cls


@record
class Rays:
  """Rays with leading axes `*r`. `viewdirs` is unit; `near`, `far` and every `t` are lengths along `directions`."""

  origins: Array  # [*r, 3]
  directions: Array  # [*r, 3]
  viewdirs: Array  # [*r, 3]
  near: Array  # [*r]
  far: Array  # [*r]


@record
class Cameras:
  """Perspective cameras that look at the origin. `cam2world` is OpenGL: x right, y up, the camera looks along -z."""

  cam2world: Array  # [*b, 4, 4]
  fov: Array  # [*b] full vertical field of view
  yaw: Array  # [*b] positive: the camera moves to +x
  pitch: Array  # [*b] positive: the camera moves up
  radius: Array  # [*b] distance of the camera from the origin


@record
class Lights:
  """One ambient and one directional white light in the object's frame, as four numbers `code = (l0, l1, lx, ly)`.

  ambient = l0/2 + 1/2, diffuse = l1/2 + 1/2, direction = (lx, ly, 1) normalised (ShadeGAN section 3.2; Unsup3d).
  """

  code: Array  # [*b, 4]

  @property
  def ambient(self) -> Array:
    return self.code[..., 0] / 2 + 0.5

  @property
  def diffuse(self) -> Array:
    return self.code[..., 1] / 2 + 0.5

  @property
  def direction(self) -> Array:
    xy = self.code[..., 2:]
    towards = jax.numpy.concatenate([xy, jax.numpy.ones_like(xy[..., :1])], -1)
    return towards / jax.numpy.linalg.norm(towards, axis=-1, keepdims=True)


@record
class Codes:
  """Modulations of n generators' fields, which may stand wherever latents may: inversion finds these.

  In the order of the generator's `codes`: raw frequencies and phases (FiLM-SIREN), shape and appearance code (GRAF).
  """

  values: tuple[Array, ...]  # [n, ...] each


@record
class Scene:
  """What a picture is made of: [n] latents (or codes), the cameras that see them, and their lights."""

  latents: Array | Codes  # [n, latent]
  cameras: Cameras  # [n]
  lights: Lights | None = None  # [n]; None for methods without light, or where the mean light is meant

  @property
  def size(self) -> int:
    """n."""
    return jax.tree.leaves(self.latents)[0].shape[0]


@record
class FieldSamples:
  """What a field answers at points. `raw` is before any activation; `gradient` is d raw / d world position or None."""

  raw: Array  # [*r, s]
  color: Array | None  # [*r, s, 3] in [0, 1]
  gradient: Array | None = None  # [*r, s, 3]


@record
class SampledField:
  """A sampler's answer: sorted points along each ray, their interval lengths, and the field evaluated there."""

  t_points: Array  # [*r, s]
  deltas: Array  # [*r, s]
  samples: FieldSamples
  extras: dict[str, Array] = dataclasses.field(default_factory=dict)


@record
class Rendering:
  """Pictures with leading axes `*r` (rays, or batch, height, width). Fields other than `rgb` are optional."""

  rgb: Array  # [*r, 3] in [0, 1]
  albedo: Array | None = None  # [*r, 3] in [0, 1], composited over nothing (premultiplied by acc)
  shading: Array | None = None  # [*r, 1]
  normals: Array | None = None  # [*r, 3] unit, outward, world frame
  depth: Array | None = None  # [*r] along the optical axis
  distance: Array | None = None  # [*r] along the ray
  acc: Array | None = None  # [*r] sum of weights
  extras: dict[str, Array] = dataclasses.field(default_factory=dict)


@record
class DiscriminatorOutput:
  """A discriminator's answer: a logit (no sigmoid), and where its heads exist a latent and a pose (pitch, yaw)."""

  logit: Array  # [*b]
  latent: Array | None = None  # [*b, latent]
  pose: Array | None = None  # [*b, 2]


FieldFn = Callable[[Array, Array], FieldSamples]
"""One instance's field, a closure over its codes (and light): (points [*r, s, 3], viewdirs [*r, 3]) -> FieldSamples."""

Shader = Callable[[Array, Array, Lights], tuple[Array, Array]]
"""(albedo [*r, 3], normals [*r, 3], light [*r or ()]) -> (color [*r, 3], shading [*r, 1])."""
