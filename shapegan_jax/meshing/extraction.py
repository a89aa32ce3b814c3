"""A generator's field as a mesh: density or occupancy on a grid, the level of its surface, colours and normals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from shapegan_jax.batches import padded_batches
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.triangles import interpolate, project, rasterize
from shapegan_jax.meshing import meshes
from shapegan_jax.meshing.meshes import Grid, Mesh
from shapegan_jax.methods.base import FieldMethod, frontal_viewdirs
from shapegan_jax.methods.volume_gan.renderer import device_chunk_points
from shapegan_jax.model import Model
from shapegan_jax.rendering.compositing import composite, weights_from_alphas
from shapegan_jax.reporting.progress import progress
from shapegan_jax.types import Array, Codes, Lights, PyTree

VIEWS_DEG = (-60.0, 0.0, 60.0)
_LOOK = 64  # size of the grid that determines level and range, whatever the resolution of the mesh
_COARSE = 48  # least number of blocks per side if only those near the surface are evaluated
_DEPTH_STEPS = 12  # samples below the surface for the colour of a density field
_PREVIEW_CAMERA = {"radius": 1.0, "fov_deg": 12.0}  # of `mesh_views`, which fits any mesh to it
_TOWARDS_LIGHT = np.array([0.35, 0.45, 0.82])  # of the preview, in the camera's frame


@dataclasses.dataclass(frozen=True)
class Extracted:
  """A mesh and how it was made. `level` and `field_range` are in the field's own unit, `unit`."""

  mesh: Mesh
  level: float
  unit: str
  field_range: tuple[float, float]
  parts: int  # connected parts of the surface, of which only the largest may be kept
  half: float  # half the side of the cube, in world units
  span: float  # depth below the surface over which its colour is composited (`Extractor.surface_colors`)


class Extractor:
  """Meshes of one model's instances; its functions are compiled once for all instances and resolutions.

  `half`: half the side of the cube around the origin that holds what the cameras can see (`FieldMethod.half_extent`).
  """

  def __init__(self, model: Model):
    method: FieldMethod = model.method
    opacity, field_fn = method.opacity, method.field_fn
    self.model = model
    self.half = float(method.half_extent)
    self.density = opacity.surface_raw is None
    self.unit = opacity.unit
    self._steps = _DEPTH_STEPS if self.density else 1
    self._chunk = device_chunk_points()

    def values(params: PyTree, codes: tuple[Array, ...], points: Array) -> Array:
      raw = field_fn(params, codes, None)(points[:, None], frontal_viewdirs(points)).raw[:, 0]
      return opacity.level_values(raw)

    def colors(
      params: PyTree, codes: tuple[Array, ...], light: Lights | None, spacing: Array, points: Array, normals: Array
    ) -> Array:
      inwards = spacing * jnp.arange(self._steps, dtype=points.dtype)
      along = points[:, None] - inwards[None, :, None] * normals[:, None]
      samples = field_fn(params, codes, light)(along, frontal_viewdirs(points))
      if self._steps == 1:
        return samples.color[:, 0]
      weights = weights_from_alphas(method.opacity_of(params)(samples.raw, jnp.full_like(samples.raw, spacing)))
      return composite(weights, samples.color) / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)

    self._values, self._colors = jax.jit(values), jax.jit(colors)

  def extract(
    self,
    codes: Codes,
    lights: Lights | None = None,
    *,
    resolution: int = 256,
    level: float | None = None,
    all_components: bool = False,
  ) -> Extracted:
    """The surface of one instance, with colours and normals.

    Args:
      codes: of one instance (`Model.codes`).
      lights: its light, for fields whose colour depends on it.
      resolution: cells along a side of the cube.
      level: a density (per world unit) or an occupancy logit; None: `meshes.visible_level` or 0.
      all_components: keep all parts, not only the one with the largest volume.

    Raises:
      UserError: there is no surface, the level is outside the field's range, or an extra is missing.
    """
    own = tuple(code[0] for code in codes.values)

    def field(points: np.ndarray) -> np.ndarray:
      return np.asarray(self._values(self.model.params, own, points))

    look = Grid(self.half, _LOOK)
    values = meshes.dense_samples(field, look, chunk=self._chunk)
    _check_finite(values)
    low, high = float(values.min()), float(values.max())
    seen = meshes.visible_level(values, look.spacing) if self.density else self.model.method.opacity.surface_raw
    if level is None and not low < seen < high:
      raise UserError(
        f"mesh: no surface; the field is {low:.6g} to {high:.6g} ({self.unit}) and never crosses {seen:g}"
      )
    level = seen if level is None else float(level)
    if not low < level < high:
      raise UserError(
        f"--level={level:g}: outside the field's range, {low:.6g} to {high:.6g} ({self.unit}); choose one between"
      )
    grid, block = Grid(self.half, resolution), max(1, resolution // _COARSE)
    bar = functools.partial(progress, label="sampling")
    values = meshes.samples_near_level(
      field, grid, level, block=block, chunk=self._chunk, report=lambda items, total: bar(items, total=total)
    )
    _check_finite(values)
    mesh = meshes.level_set(values, grid, level)
    largest, parts = meshes.largest_component(mesh)
    mesh = mesh if all_components else largest
    normals = meshes.outward_normals(mesh, self._gradients(codes, mesh.vertices), half=self.half, spacing=grid.spacing)
    span = 1.5 / seen if self.density else 0.0
    colors = self.surface_colors(codes, lights, mesh.vertices, normals, span=span)
    mesh = dataclasses.replace(mesh, normals=normals, colors=colors)
    return Extracted(mesh, level, self.unit, (low, high), parts, self.half, span)

  def surface_colors(
    self,
    codes: Codes,
    lights: Lights | None,
    points: Float[np.ndarray, "p 3"],
    normals: Float[np.ndarray, "p 3"],
    *,
    span: float,
  ) -> Float[np.ndarray, "p 3"]:
    """The colour (albedo, for methods with light) of surface points, in [0, 1]; if it depends on the view, that from
    the front.

    What is visible of a soft density field lies somewhat below its level set, and its colours above that have never
    been seen by a camera. So colours are composited along the inward normal over `span` world units (`extract` takes
    1.5 / the automatic level: about three times the depth at which twice that density absorbs half of the light). The
    surface of an occupancy field has its own colour, whatever the span.
    """
    own, light = jax.tree.map(lambda leaf: leaf[0], (codes.values, lights))
    composited = functools.partial(self._colors, self.model.params, own, light, jnp.float32(span / self._steps))
    return _in_chunks(composited, (points, normals), max(1, self._chunk // self._steps), "colouring")

  def _gradients(self, codes: Codes, points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p 3"]:
    def gradient(part: np.ndarray) -> Array:
      return self.model.query(codes, jnp.asarray(part)[None]).gradient[0]

    return _in_chunks(gradient, (points,), self._chunk, "normals")


def _in_chunks(
  function: Callable[..., Array], arrays: tuple[Float[np.ndarray, "p 3"], ...], chunk: int, label: str
) -> Float[np.ndarray, "p 3"]:
  """`function` of `chunk` rows at a time."""
  answers, start = np.empty(arrays[0].shape, np.float32), 0
  for part, fresh in progress(padded_batches(arrays, chunk), label, -(-len(answers) // chunk)):
    answers[start : start + fresh] = function(*part)[:fresh]
    start += fresh
  return answers


def mesh_views(mesh: Mesh, half: float, *, size: int = 256) -> dict[str, Float[np.ndarray, "n size size 3"]]:
  """Pictures of a mesh from `VIEWS_DEG`, on white: rows "shape" (grey clay) and, where it has colours, "colour".

  Colours are shaded by the same light, which moves with the camera. `half` is an `Extractor`'s.
  """
  fitted = mesh.vertices * (0.12 / half)  # fits into the view of the preview's camera
  normals = meshes.vertex_normals(mesh) if mesh.normals is None else mesh.normals
  attributes = [normals] if mesh.colors is None else [normals, mesh.colors]
  attributes = np.concatenate(attributes, -1).astype(np.float32)
  rows: dict[str, list[np.ndarray]] = {"shape": [], "colour": []}
  for yaw in np.radians(VIEWS_DEG):
    points, depth = project(fitted, float(yaw), 0.0, **_PREVIEW_CAMERA)
    hits = rasterize(points, depth, mesh.faces, height=size, width=size, supersampling=2)
    values = interpolate(attributes[mesh.faces[hits.triangles]], hits.weights)
    towards = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]) @ _TOWARDS_LIGHT
    shading = 0.25 + 0.75 * np.maximum(0.0, values[:, :3] @ towards)
    rows["shape"].append(_on_white(hits.pixels, np.repeat(0.8 * shading[:, None], 3, -1), size))
    if mesh.colors is not None:
      rows["colour"].append(_on_white(hits.pixels, np.clip(values[:, 3:] * shading[:, None], 0, 1), size))
  return {name: np.stack(pictures) for name, pictures in rows.items() if pictures}


def _on_white(pixels: np.ndarray, colors: np.ndarray, size: int) -> np.ndarray:
  """Colours at the rays of a grid twice as fine, averaged to a picture."""
  fine = np.ones((4 * size * size, 3))
  fine[pixels] = colors
  return fine.reshape(size, 2, size, 2, 3).mean((1, 3))


def _check_finite(values: np.ndarray) -> None:
  if not np.isfinite(values).all():
    raise UserError("mesh: the field has non-finite values; this model cannot be meshed")
