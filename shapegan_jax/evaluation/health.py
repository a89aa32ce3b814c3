"""Whether shapes are well formed: not hollow, as deep as the data, smooth. What training logs and warns about."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from shapegan_jax.batches import padded_batches
from shapegan_jax.data.sources import Source
from shapegan_jax.geometry.depthmaps import normals_from_depth
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.metrics import shape
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Cameras, Rendering

MIN_CONVEX_SHARE = 0.95
DEVIATION_RANGE = (0.5, 1.5)
MAX_DISAGREEMENT_DEG = 20.0


def shape_report(
  model: Model, *, samples: int, data_deviation: float | None = None, resolution: int | None = None, batch: int = 16
) -> dict[str, float]:
  """Shape metrics over `samples` samples of the latent, pose and light priors; always the same ones.

  Returns: `shape/convex_share`, the non-hollow share in [0, 1]; `shape/depth_deviation`, the depth standard deviation
  (median over samples, world units), also as a ratio to that of the data where it is known;
  `shape/normal_disagreement_deg` (median over samples) where there are normals. Empty for methods without shape.
  """
  if not model.method.has_shape:
    return {}
  scenes = model.sample_scene(samples, stream(root_key(0), "shape_report"))
  rows: list[dict[str, np.ndarray]] = []
  for scene, fresh in padded_batches(scenes, batch):
    rendering = model.render(scene.latents, scene.cameras, scene.lights, resolution=resolution)
    if rendering.depth is None or rendering.acc is None:
      return {}
    measured = _measure(rendering, scene.cameras)
    rows.append({name: np.asarray(values)[:fresh] for name, values in measured.items()})
  columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
  report = {
    "shape/convex_share": float(np.mean(columns["convexity"] > 0)),
    "shape/depth_deviation": float(np.median(columns["deviation"])),
  }
  if data_deviation:
    report["shape/depth_deviation_ratio"] = report["shape/depth_deviation"] / data_deviation
  if "disagreement" in columns:
    report["shape/normal_disagreement_deg"] = float(np.median(columns["disagreement"]))
  return report


@jax.jit
def _measure(rendering: Rendering, cameras: Cameras) -> dict[str, Array]:
  depth, mask = rendering.depth, rendering.acc
  # The depth of a pixel that the shape covers only partly is not on its surface.
  solid = (mask > 0.5).astype(depth.dtype)
  measured = {"convexity": shape.convexity(depth, solid), "deviation": shape.depth_deviation(depth, solid)}
  if rendering.normals is not None:
    from_depth = normals_from_depth(depth, cameras, pixel_grid(*depth.shape[-2:]))
    measured["disagreement"] = shape.normal_disagreement_deg(rendering.normals, from_depth, solid)
  return measured


def data_depth_deviation(source: Source, *, examples: int = 256) -> float | None:
  """Median depth standard deviation (world units) of the first examples; None for data without depth."""
  deviations = []
  for i in range(min(examples, len(source))):
    example = source[i]
    if "depth" not in example or "mask" not in example:
      return None
    depth, mask = (np.asarray(example[name], np.float32) for name in ("depth", "mask"))
    inside = depth.reshape(-1)[mask.reshape(-1) > 0.5 * max(float(mask.max()), 1e-6)]
    if inside.size:
      deviations.append(inside.std())
  return float(np.median(deviations)) if deviations else None


def alarms(report: Mapping[str, float]) -> dict[str, str]:
  """What looks wrong, {kind: sentence}; empty if nothing does or nothing is known. Common early in training."""
  found = {}
  convex = report.get("shape/convex_share")
  if convex is not None and convex < MIN_CONVEX_SHARE:
    found["hollow"] = (
      f"hollow shapes: {convex:.0%} of the samples bulge towards the camera (want {MIN_CONVEX_SHARE:.0%})"
    )
  ratio, (low, high) = report.get("shape/depth_deviation_ratio"), DEVIATION_RANGE
  if ratio is not None and not low <= ratio <= high:
    kind = "flat" if ratio < low else "too deep"
    found[kind] = f"{kind} shapes: their depth standard deviation is {ratio:.2f} of the data's (want {low} to {high})"
  angle = report.get("shape/normal_disagreement_deg")
  if angle is not None and angle > MAX_DISAGREEMENT_DEG:
    limit = f"{MAX_DISAGREEMENT_DEG:.0f} degrees"
    found["rough"] = f"rough shapes: density and depth normals differ by {angle:.0f} degrees (want under {limit})"
  return found
