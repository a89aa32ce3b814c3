"""Depth maps as reliefs: unprojected to points, rotated about a point behind the image plane, and projected again.

The camera and frame are those of Unsup3D (Wu et al. 2020, section 3.2) and GAN2Shape (Pan et al. 2021): x right, y
down, z away from the camera, which is at the origin; the relief rotates about (0, 0, centre). The field of view spans
the centres of the outermost pixels. Only this file and the methods that say so use this frame, which differs from the
world frame of the package:

| | this frame | world (y up, z towards the camera, origin at the object) |
|---|---|---|
| point | (x, y, z) | (x, -y, centre - z) |
| normal | inward: (0, 0, 1) faces the camera | outward: (-nx, ny, nz) |
| light (lx, ly, 1) | direction of travel; ly > 0: from above | direction to the light: (-lx, ly, 1) |
| view | moves the relief: (rx, ry, rz, tx, ty, tz) | ry alone is the camera's yaw, rx alone its pitch |

The dot product of normal and light is the same in both, so `rendering.shading.lambertian` takes either pair. SIDE and
MAD (`metrics.depth_errors`) use depth and need no change of frame.

A view has three angles in radians about x, y and z and a translation in units of depth. Points are first rotated by
R = Rz(rz) Ry(ry) Rx(rx), then translated.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from shapegan_jax.numerics import l2_normalize

PUBLISHED_EPSILON = 1e-7
"""Added to the length of the cross product in the published normals, which makes them 0.3 % too short at 64 pixels."""


@dataclasses.dataclass(frozen=True)
class ReliefCamera:
  """A camera of `resolution` x `resolution` pixels; `fov_deg` is the angle between the outermost pixel centres.

  `centre` is the depth of the point about which reliefs rotate.
  """

  resolution: int
  fov_deg: float = 10.0
  centre: float = 1.0

  @property
  def slope(self) -> float:
    """x / z at the centre of the outermost pixels: tan(fov / 2)."""
    return math.tan(math.radians(self.fov_deg) / 2)

  @property
  def focal(self) -> float:
    """Focal length in pixels."""
    return (self.resolution - 1) / 2 / self.slope


def unproject(camera: ReliefCamera, depth: Float[Array, "*b s s"]) -> Float[Array, "*b s s 3"]:
  """The points visible at the pixel centres: depth * (x / z, y / z, 1)."""
  lines = camera.slope * jnp.linspace(-1.0, 1.0, camera.resolution, dtype=depth.dtype)
  rows = lines.reshape((1,) * (depth.ndim - 2) + (-1, 1))
  columns = lines.reshape((1,) * (depth.ndim - 1) + (-1,))
  return jnp.stack([depth * columns, depth * rows, depth], -1)


def project(camera: ReliefCamera, points: Float[Array, "*b 3"]) -> Float[Array, "*b 2"]:
  """Image coordinates (right, down) of points with z > 0; -1 and 1 are the centres of the outermost pixels."""
  return points[..., :2] / (points[..., 2:] * camera.slope)


def rotations(views: Float[Array, "*b 6"]) -> Float[Array, "*b 3 3"]:
  """R = Rz Ry Rx of each view, right-handed about the axes of this frame."""
  (cx, cy, cz), (sx, sy, sz) = (tuple(jnp.moveaxis(f(views[..., :3]), -1, 0)) for f in (jnp.cos, jnp.sin))
  return jnp.stack(
    [
      jnp.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
      jnp.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
      jnp.stack([-sy, cy * sx, cy * cx], -1),
    ],
    -2,
  )


def move(
  points: Float[Array, "*b h w 3"], views: Float[Array, "*b 6"], *, centre: float = 1.0
) -> Float[Array, "*b h w 3"]:
  """Points of canonical reliefs in the views: R (p - c) + c + t with c = (0, 0, centre)."""
  middle = _middle(points, centre)
  return _turn(rotations(views), points - middle) + middle + views[..., None, None, 3:]


def move_back(
  points: Float[Array, "*b h w 3"], views: Float[Array, "*b 6"], *, centre: float = 1.0
) -> Float[Array, "*b h w 3"]:
  """The inverse of `move`: R^T (p - t - c) + c."""
  middle = _middle(points, centre)
  return _turn(jnp.swapaxes(rotations(views), -2, -1), points - views[..., None, None, 3:] - middle) + middle


def _middle(points: Array, centre: float) -> Array:
  return jnp.array([0.0, 0.0, centre], points.dtype).reshape((1,) * (points.ndim - 1) + (3,))


def _turn(rotation: Array, points: Array) -> Array:
  # Sums of products: a matrix product does not pay off for three terms and has reduced precision on some devices.
  columns = rotation[..., None, None, :, :]
  return sum(points[..., k : k + 1] * columns[..., k] for k in range(3))


def relief_normals(
  camera: ReliefCamera, depth: Float[Array, "*b s s"], *, epsilon: float = 0.0
) -> Float[Array, "*b s s 3"]:
  """Unit normals in this frame: the cross product of central differences, and (0, 0, 1) on the outermost pixels.

  They point inward, away from the camera; `normals_to_world` converts them to outward normals. `epsilon` is added to
  the length by which they are divided (`PUBLISHED_EPSILON`).
  """
  points = unproject(camera, depth)
  across = points[..., 1:-1, 2:, :] - points[..., 1:-1, :-2, :]
  down = points[..., 2:, 1:-1, :] - points[..., :-2, 1:-1, :]
  product = jnp.cross(across, down)
  if epsilon:
    inner = product / (jnp.linalg.norm(product, axis=-1, keepdims=True) + epsilon)
  else:
    inner = l2_normalize(product, eps=1e-15)
  # Padded by x, y = 0 and z = 1.
  around = ((0, 0),) * (depth.ndim - 2) + ((1, 1), (1, 1))
  return jnp.stack([jnp.pad(inner[..., k], around, constant_values=float(k == 2)) for k in range(3)], -1)


def points_to_world(camera: ReliefCamera, points: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
  """(x, -y, centre - z), its own inverse. The camera of the canonical image is at (0, 0, centre) in the world."""
  x, y, z = jnp.moveaxis(points, -1, 0)
  return jnp.stack([x, -y, camera.centre - z], -1)


def normals_to_world(normals: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
  """(-nx, ny, nz): inward normals in this frame to outward ones in the world frame, and back."""
  return normals * jnp.array([-1.0, 1.0, 1.0], normals.dtype).reshape((1,) * (normals.ndim - 1) + (3,))


def lights_to_world(codes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
  """(l0, l1, -lx, ly): light codes in this frame to those of `types.Lights` in the world frame, and back."""
  return codes * jnp.array([1.0, 1.0, -1.0, 1.0], codes.dtype).reshape((1,) * (codes.ndim - 1) + (4,))


def camera_poses(views: Float[Array, "*b 6"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
  """(yaw, pitch) in radians of the world-frame camera equivalent to each view, up to roll and translation.

  From the relief, the camera is in the direction R^T (0, 0, -1), which is (sin ry, cos ry sin rx, cos ry cos rx) in the
  world frame.
  """
  back = rotations(views)[..., 2, :]
  return jnp.arctan2(-back[..., 0], back[..., 2]), jnp.arcsin(jnp.clip(back[..., 1], -1.0, 1.0))
