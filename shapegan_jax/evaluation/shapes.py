"""Quality of a generator's shapes: depth against ground truth by the papers' protocol, consistency between views.

Everything is sampled with fixed keys, so that models are compared on the same latents, poses and lights (as far as
their priors agree), and the same call always gives the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from shapegan_jax.batches import padded_batches
from shapegan_jax.data.sources import open_source
from shapegan_jax.evaluation.depth_protocol import (
  DepthProtocol,
  Pairs,
  average_depth,
  estimate_depth,
  generated_pairs,
  train_depth_net,
)
from shapegan_jax.geometry.intervals import deltas_of, uniform_points
from shapegan_jax.geometry.surfaces import first_crossing, refine_root
from shapegan_jax.methods.base import FieldMethod
from shapegan_jax.metrics import consistency, depth_errors
from shapegan_jax.model import Model
from shapegan_jax.rendering.compositing import weights_from_alphas
from shapegan_jax.rendering.volume import points_at
from shapegan_jax.reporting.previews import depth_colors, labelled_grid
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Cameras, Codes, Lights, PyTree, Rays, Rendering

CONSTANT, MEAN, SUPERVISED = "constant", "mean", "supervised"
"""Rows of a depth report that involve no generator."""


def depth_report(
  models: Mapping[str, Model],
  workdir: str | Path,
  *,
  data: Mapping[str, Any],
  protocol: DepthProtocol | None = None,
  fov_deg: float = 12.0,
  supervised: bool = True,
) -> dict[str, dict[str, float]]:
  """SIDE and MAD on the test split of a data set with ground truth, by the protocol of `evaluation.depth_protocol`.

  Args:
    models: name -> generator. For each a depth network is trained in `workdir/<name>`, resuming what is there.
    workdir: for pairs, networks and, in each folder, `depth.png`: the first test pictures with their estimated depth.
    data: the `data` section of a config; its `split` is ignored (train: the bounds; test: the errors).
    protocol: budget and free choices; None: the defaults.
    fov_deg: the test pictures' angle of view, which normals need.
    supervised: also train the upper bound, on as many real training pictures as `protocol.pairs`.

  Returns: a row for `constant` and `mean` depth (the training set's average map), `supervised`, and each model. A row
  has `side_e2` (SIDE times 100) and `mad_deg`, each also with `_std` (over images) and `_of_constant` (as a fraction of
  the constant baseline), `mad_released_deg` (as the published code rounds, see `metrics.depth_errors.mad`), and where a
  network was trained `train_loss`, the mean of its last steps in world units.

  Raises:
    UserError: the data set has no ground truth, or the workdir holds something else.
  """
  protocol, real, test = _truth(data, protocol)
  fov = math.radians(fov_deg)
  rows = {CONSTANT: np.ones_like(test.depth), MEAN: np.broadcast_to(average_depth(real), test.depth.shape)}
  report = {name: depth_row(depth, test, fov) for name, depth in rows.items()}
  trained = {SUPERVISED: None} if supervised else {}
  for name, model in {**trained, **models}.items():
    folder = Path(workdir) / name
    pairs = real
    if model is not None:
      pairs = generated_pairs(model.method, model.params, protocol, folder / "pairs", label=f"{name}: pairs")
    params, loss = train_depth_net(pairs, protocol, folder / "net", label=f"{name}: depth network")
    estimated = estimate_depth(params, test.images, protocol)
    report[name] = depth_row(estimated, test, fov) | {"train_loss": loss}
    write_png(folder / "depth.png", depth_picture(estimated[:8], test[:8], fov))
  for row in report.values():
    for key in ("side_e2", "mad_deg"):
      row[f"{key}_of_constant"] = row[key] / report[CONSTANT][key]
  return report


def _truth(data: Mapping[str, Any], protocol: DepthProtocol | None) -> tuple[DepthProtocol, Pairs, Pairs]:
  """(the protocol at the data's resolution, its real training pairs, the test split)."""
  protocol = DepthProtocol() if protocol is None else protocol
  sources = {split: open_source({**data, "split": split}) for split in ("train", "test")}
  protocol = dataclasses.replace(protocol, resolution=sources["test"][0]["image"].shape[0])
  real, test = (
    Pairs.of(sources[split], n, far=protocol.far) for split, n in (("train", protocol.pairs), ("test", None))
  )
  return protocol, real, test


def depth_row(estimated: np.ndarray, truth: Pairs, fov: float) -> dict[str, float]:
  """Numbers of a row from depth maps [n, h, w], within the true mask (networks predict depth everywhere)."""
  mask = depth_errors.common_mask(np.ones_like(truth.mask), truth.mask)
  side = 100 * np.asarray(depth_errors.side(estimated, truth.depth, mask))
  mad, released = (
    np.asarray(depth_errors.mad(estimated, truth.depth, mask, fov=fov, meaning=meaning))
    for meaning in ("paper", "released")
  )
  return {
    "side_e2": float(side.mean()),
    "side_e2_std": float(side.std()),
    "mad_deg": float(mad.mean()),
    "mad_deg_std": float(mad.std()),
    "mad_released_deg": float(released.mean()),
  }


def depth_picture(estimated: np.ndarray, truth: Pairs, fov: float) -> UInt8[np.ndarray, "height width 3"]:
  """Pictures with their true and estimated depth (near is light) and normals, a column each; white outside the mask."""
  mask = truth.mask[..., None].astype(np.float64)

  def normals(depth: np.ndarray) -> np.ndarray:
    # From Unsup3D's frame to colours in the camera's: what faces the viewer is light blue.
    return (np.asarray(depth_errors.normals(jnp.asarray(depth), fov=fov)) * np.array([-1, 1, 1]) + 1) / 2

  # Depth is known up to a factor.
  factor = np.mean(truth.depth[truth.mask]) / np.mean(estimated[truth.mask])
  both = depth_colors(np.concatenate([truth.depth, factor * estimated]), np.concatenate([mask, mask])[..., 0])
  maps = np.split(both, 2) + [normals(truth.depth), normals(estimated)]
  shown = [values * mask + 1 - mask for values in maps]
  labels = ("true depth", "estimated", "normals", "estimated ")
  return labelled_grid({"picture": truth.images / 255.0} | dict(zip(labels, shown, strict=True)))


def view_consistency(
  model: Model,
  *,
  samples: int = 64,
  yaw_deg: float = 20.0,
  resolution: int | None = None,
  tolerance: float = 0.01,
  batch: int = 8,
) -> dict[str, float]:
  """The front view warped to the views at -+`yaw_deg` by its own depth (`metrics.consistency.view_errors`).

  Solid pixels have acc > 1/2; a point more than `tolerance` of its depth behind the other view's surface counts as
  hidden there.

  Returns: `view/color_error` (mean |rgb - rgb'| in [0, 1]), `view/depth_error` (mean |depth - depth'| / depth'),
  `view/common_share` (of the solid pixels). Means over samples and both sides.
  """
  yaw = math.radians(yaw_deg)
  scene = model.sample_scene(samples, stream(root_key(0), "view_consistency"))
  rows = []
  for (part, part_lights), fresh in padded_batches((scene.latents, scene.lights), batch):
    angles = jnp.zeros((batch,))
    cameras = {side: model.cameras_at(angles + side * yaw, angles) for side in (-1, 0, 1)}
    views = {
      side: _view(model.render(part, camera, part_lights, resolution=resolution)) for side, camera in cameras.items()
    }
    for side in (-1, 1):
      errors = _view_errors(views[0], cameras[0], views[side], cameras[side], tolerance=tolerance)
      rows.append(jax.tree.map(lambda x: np.asarray(x)[:fresh], errors))  # noqa: B023 (used at once)
  names = {"color_error": "color", "depth_error": "depth", "common_share": "share"}
  columns = {name: np.concatenate([getattr(row, key) for row in rows]) for name, key in names.items()}
  return {f"view/{name}": float(np.nanmean(column)) for name, column in columns.items()}


_view_errors = jax.jit(consistency.view_errors, static_argnames="tolerance")


def _view(rendering: Rendering) -> consistency.View:
  return consistency.View(rgb=rendering.rgb, depth=rendering.depth, solid=rendering.acc > 0.5)


def weighted_variance(
  model: Model,
  *,
  samples: int = 64,
  truncation: float = 0.7,
  points: int = 36,
  resolution: int | None = None,
  batch: int = 4,
) -> dict[str, float]:
  """GOF's measure of how thick a surface is: the variance of the distance under the weights of a ray's samples.

  As its authors measure it: `points` even samples between near and far, whatever the model's own sampler is; poses from
  the prior; rays whose weights sum to more than 0.99. An occupancy field (GOF) is slightly opaque wherever its logit is
  finite, so only what lies at most `FieldMethod.surface_margin` in front of its surface counts.

  Returns: `shape/weighted_variance_e4` (squared world units times 10^4; mean over rays, then over samples) and
  `shape/opaque_share`, the share of all rays that counted.
  """
  resolution = resolution or model.resolution
  measure = jax.jit(lambda params, *inputs: _ray_variance(model.method, params, *inputs, resolution, points))
  scene = model.sample_scene(samples, stream(root_key(0), "weighted_variance"))
  codes = model.codes(scene.latents, truncation=truncation)
  variances, shares = [], []
  for part, fresh in padded_batches((codes, scene.cameras, scene.lights), batch):
    variance, opaque = map(np.asarray, measure(model.params, *part))
    variances += [variance[i][opaque[i]].mean() for i in range(fresh) if opaque[i].any()]
    shares += list(opaque[:fresh].mean(-1))
  return {
    "shape/weighted_variance_e4": 1e4 * float(np.mean(variances)) if variances else math.nan,
    "shape/opaque_share": float(np.mean(shares)),
  }


def _ray_variance(
  method: FieldMethod,
  params: PyTree,
  codes: Codes,
  cameras: Cameras,
  lights: Lights | None,
  resolution: int,
  points: int,
) -> tuple[Array, Array]:
  """(variance, opaque) of every ray, [b, resolution^2]."""
  rays = method.rays(cameras, resolution)
  before = method.surface_margin
  opacity = method.opacity_of(params)

  def one_row(rays: Rays) -> tuple[Array, Array]:
    t = uniform_points(rays.near, rays.far, points)
    places = points_at(rays, t)
    viewdirs = jnp.broadcast_to(rays.viewdirs[..., None, :], places.shape)
    flat = (places.shape[0], -1, 3)
    raw = method.query(params, codes, places.reshape(flat), lights, viewdirs.reshape(flat)).raw.reshape(t.shape)
    alphas = opacity(raw, deltas_of(t, rays.near, rays.far))
    if before is not None:
      bracket = first_crossing(t, raw)
      root = refine_root(lambda t: t, bracket, 0)  # where the chord of the crossing is 0
      alphas = jnp.where(bracket.found[..., None] & (t <= root[..., None] - before), 0.0, alphas)
    return consistency.weighted_variance(weights_from_alphas(alphas), t)

  # Row by row: all points of a picture at once would take several hundred megabytes.
  b = rays.near.shape[0]
  rows = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(b, resolution, resolution, *x.shape[2:]), 1, 0), rays)
  variance, opaque = jax.lax.map(one_row, rows)
  return tuple(jnp.moveaxis(x, 0, 1).reshape(b, -1) for x in (variance, opaque))
