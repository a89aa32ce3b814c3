"""What a checkpoint is worth: its shapes (convex, as deep as the data, smooth, one surface in all views; SIDE, MAD),
its pictures' distance from real ones, and its preview."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from shapegan_jax.checkpoints import read_config, write_json
from shapegan_jax.data.sources import open_source
from shapegan_jax.evaluation.depth_protocol import DepthProtocol
from shapegan_jax.evaluation.health import alarms, data_depth_deviation, shape_report
from shapegan_jax.evaluation.images import choose_features, image_report
from shapegan_jax.evaluation.preview import preview
from shapegan_jax.evaluation.shapes import depth_report, view_consistency, weighted_variance
from shapegan_jax.files import AnyPath, located
from shapegan_jax.methods.base import Method, has_shape
from shapegan_jax.methods.catalog import build
from shapegan_jax.metrics.features import FeatureNetwork
from shapegan_jax.model import Model, from_workdir
from shapegan_jax.reporting.progress import duration
from shapegan_jax.reporting.report import markdown
from shapegan_jax.reporting.writer import write_png, write_text
from shapegan_jax.schedules import stage_at


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
