"""What a checkpoint is worth: its shapes (convex, as deep as the data, smooth, one surface in all views; SIDE, MAD),
its pictures' distance from real ones, and its preview."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from shapegan_jax.checkpoints import read_config, write_json
from shapegan_jax.data.pipeline import open_source
from shapegan_jax.files import AnyPath, located
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.geometry.depthmaps import normals_from_depth
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.image_metrics import choose_features, image_report
from shapegan_jax.methods.base import Method, build, has_shape
from shapegan_jax.methods.depth_protocol import DepthProtocol
from shapegan_jax.metrics import shape
from shapegan_jax.metrics.features import FeatureNetwork
from shapegan_jax.metrics.previews import YAWS_DEG, preview_grid, yaw_labels
from shapegan_jax.metrics.report import markdown
from shapegan_jax.metrics.writer import duration, write_png, write_text
from shapegan_jax.model import Model, from_workdir
from shapegan_jax.rng import root_key, stream
from shapegan_jax.schedules import stage_at
from shapegan_jax.shape_metrics import depth_report, view_consistency, weighted_variance
from shapegan_jax.types import Array, Cameras, Key, Lights, Rendering

MIN_CONVEX_SHARE = 0.95
DEVIATION_RANGE = (0.5, 1.5)
MAX_DISAGREEMENT_DEG = 20.0


def evaluate(
  config: Mapping[str, Any] | None, workdir: str | AnyPath, *, method: Method | None = None, source: Any = None
) -> dict[str, Any]:
  """Measure the newest checkpoint of `workdir`: a table on the terminal, `eval.json`, and `eval/report.md` with
  pictures.

  The run's own saved config says what was trained; of `config` only the section `evaluation` counts.
  """
  workdir, saved = located(workdir), read_config(workdir)
  settings = {**saved.get("evaluation", {}), **(config or {}).get("evaluation", {})}
  samples = settings.get("final_samples") or settings.get("samples", 256)
  features = _features(settings) if settings.get("final_images") else None
  model = from_workdir(workdir, method or build(saved), saved)
  source = open_source(saved["data"]) if source is None else source
  begun = time.monotonic()
  report = shape_report(
    model, samples=samples, data_deviation=data_depth_deviation(source), resolution=settings.get("resolution")
  )
  shapes, protocol = has_shape(model.method), {}
  if shapes:
    protocol |= {"shape_samples": samples, "shape_resolution": settings.get("resolution")}
  if shapes and (views := settings.get("views")):
    report |= view_consistency(model, samples=views) | weighted_variance(model, samples=views)
    protocol["views"] = views
  if features:
    count, size = settings["final_images"], min(model.resolution, _prepared(source))
    images = image_report(model, source, features=features, count_fake=count, resolution=size, progress=_bar)
    report |= images["values"]
    protocol["images"] = images["protocol"]
  depths = {}
  if shapes and settings.get("depth_pairs"):
    depths, protocol["depth"] = _depths(model, workdir, saved, settings)
    report |= {f"depth/{name}": value for name, value in depths["model"].items()}
  found = list(alarms(report).values())
  result = {"step": model.step, "samples": samples, **report, "alarms": found, "protocol": protocol}
  if depths:
    result["depth_baselines"] = {name: row for name, row in depths.items() if name != "model"}
  write_json(workdir / "eval.json", result)
  write_png(workdir / "eval" / "preview.png", preview(model, count=settings.get("columns", 8)))
  write_text(workdir / "eval" / "report.md", markdown(str(workdir), result, pictures={"Samples": "preview.png"}))
  print(f"{workdir}: step {model.step}, {samples} samples, {duration(time.monotonic() - begun)}")
  for name, value in report.items():
    print(f"  {name:<40} {value:9.4f}")
  for line in found:
    print(f"  alarm: {line}")
  print(f"  {workdir / 'eval' / 'report.md'}")
  return result


def image_reporter(settings: Mapping[str, Any], source: Any) -> Callable[[Model], dict[str, float]]:
  """What training logs of a model's pictures: `images` of them against four times as many real ones.

  Raises:
    UserError: the feature network's weights are missing, said before the training begins.
  """
  count = settings.get("images") or 0
  if not count:
    return lambda model: {}
  features, cache = _features(settings), {}

  def report(model: Model) -> dict[str, float]:
    # As large as is being trained: at another size thin things alias, and the distance tells of that alone.
    size = min(stage_at(model.method.stages, max(model.step - 1, 0)).resolution, _prepared(source))
    counts = {"count_fake": count, "count_real": 4 * count}
    return image_report(model, source, features=features, cache=cache, resolution=size, **counts)["values"]

  return report


def _prepared(source: Any) -> int:
  return np.asarray(source[0]["image"]).shape[0]


def _features(settings: Mapping[str, Any]) -> FeatureNetwork:
  return choose_features(settings.get("features") or "random", settings.get("features_file"))


def _depths(
  model: Model, workdir: AnyPath, saved: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
  """SIDE and MAD by the papers' protocol, and what it was."""
  cameras = saved["cameras"]
  protocol = DepthProtocol(pairs=settings["depth_pairs"], near=cameras["near"], far=cameras["far"])
  protocol = dataclasses.replace(protocol, fit=dataclasses.replace(protocol.fit, steps=settings["depth_steps"]))
  folder = workdir / "eval" / f"depth_step_{model.step}"
  rows = depth_report({"model": model}, folder, data=saved["data"], protocol=protocol, fov_deg=cameras["fov_deg"])
  return rows, dataclasses.asdict(protocol)


def _bar(items: Iterable[int], label: str) -> Iterable[int]:
  return tqdm(items, desc=label, delay=1, leave=False)


def shape_report(
  model: Model, *, samples: int, data_deviation: float | None = None, resolution: int | None = None, batch: int = 16
) -> dict[str, float]:
  """Shape metrics over `samples` samples of the latent, pose and light priors; always the same ones.

  Returns: `shape/convex_share` [0, 1]; `shape/depth_deviation` (median over samples, world units), also as a ratio to
  the data's where that is known; `shape/normal_disagreement_deg` (median over samples) where there are normals. Nothing
  for methods without shape.
  """
  if not has_shape(model.method):
    return {}
  key = stream(root_key(0), "shape_report")
  inputs = _draw(model, samples, key)
  rows: list[dict[str, np.ndarray]] = []
  for start in range(0, samples, batch):
    # The last batch is as long as the others, so that one compiled program serves them all.
    index = np.minimum(np.arange(start, start + batch), samples - 1)
    part = jax.tree.map(lambda x: x[index], inputs)  # noqa: B023 (used at once)
    rendering = model.render(*part, resolution=resolution)
    if rendering.depth is None or rendering.acc is None:
      return {}
    fresh = min(batch, samples - start)
    rows.append(jax.tree.map(lambda x: np.asarray(x)[:fresh], _measure(rendering, part[1])))  # noqa: B023
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
  # A pixel the ray only grazed has a depth of its own that is none of the shape's.
  solid = (mask > 0.5).astype(depth.dtype)
  measured = {"convexity": shape.convexity(depth, solid), "deviation": shape.depth_deviation(depth, solid)}
  if rendering.normals is not None:
    from_depth = normals_from_depth(depth, cameras, pixel_grid(*depth.shape[-2:]))
    measured["disagreement"] = shape.normal_disagreement_deg(rendering.normals, from_depth, solid)
  return measured


def _draw(model: Model, n: int, key: Key) -> tuple[Array, Cameras, Lights | None]:
  return model.sample_latents(n, key), model.sample_cameras(n, key), model.sample_lights(n, key)


def data_depth_deviation(source: Any, *, examples: int = 256) -> float | None:
  """Median depth deviation (world units) of the first examples of a data set that knows its depth; else None."""
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
  """What looks wrong: {kind: sentence}; empty when all is well or nothing is known. Usual in a run's first minutes."""
  found = {}
  convex = report.get("shape/convex_share")
  if convex is not None and convex < MIN_CONVEX_SHARE:
    found["hollow"] = (
      f"hollow shapes: {convex:.0%} of the samples bulge towards the camera (want {MIN_CONVEX_SHARE:.0%})"
    )
  ratio, (low, high) = report.get("shape/depth_deviation_ratio"), DEVIATION_RANGE
  if ratio is not None and not low <= ratio <= high:
    kind = "flat" if ratio < low else "too deep"
    found[kind] = f"{kind} shapes: their depth varies {ratio:.2f} times as much as the data's (want {low} to {high})"
  angle = report.get("shape/normal_disagreement_deg")
  if angle is not None and angle > MAX_DISAGREEMENT_DEG:
    limit = f"{MAX_DISAGREEMENT_DEG:.0f} degrees"
    found["rough"] = f"rough shapes: density and depth normals differ by {angle:.0f} degrees (want under {limit})"
  return found


def preview(model: Model, *, count: int, resolution: int | None = None) -> UInt8[np.ndarray, "height width 3"]:
  """The preview picture: always the same `count` latents, lights and poses of the priors, then each at three yaws (of
  methods without shape: at three truncations)."""
  key = stream(root_key(0), "preview")
  latents, cameras, lights = _draw(model, count, key)
  front = model.render(latents, cameras, lights, resolution=resolution)
  turned = {}
  if not has_shape(model.method):
    for truncation in (0.7, 0.5, 0.0):
      turned[f"psi {truncation}"] = model.render(latents, cameras, resolution=resolution, truncation=truncation)
    return preview_grid(front, cameras, turned)
  for label, yaw in zip(yaw_labels(), YAWS_DEG, strict=True):
    side = jnp.full_like(cameras.yaw, math.radians(yaw))
    view = orbit_cameras(side, jnp.zeros_like(side), fov=cameras.fov, radius=cameras.radius)
    turned[label] = model.render(latents, view, lights, resolution=resolution)
  return preview_grid(front, cameras, turned)
