"""What can be measured about a trained generator, by name; the `evaluation` section of a config lists names.

A new measure is one class and one line, `MEASURES["mine"] = MyMeasure()`, before `train` or `evaluate` is called; with
`config.evaluation.measures += ("mine",)` its numbers are in `eval.json`, on the terminal and in `eval/report.md`, with
`config.evaluation.training_measures += ("mine",)` in `metrics.jsonl` and TensorBoard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from shapegan_jax.data.sources import Source
from shapegan_jax.errors import UserError
from shapegan_jax.evaluation.depth_protocol import DepthProtocol
from shapegan_jax.evaluation.health import data_depth_deviation, shape_report
from shapegan_jax.evaluation.images import choose_features, image_meanings, image_report
from shapegan_jax.evaluation.shapes import depth_report, view_consistency, weighted_variance
from shapegan_jax.files import AnyPath
from shapegan_jax.metrics.features import FeatureNetwork
from shapegan_jax.model import Model
from shapegan_jax.reporting.progress import progress
from shapegan_jax.schedules import stage_at

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Context:
  """What the measures of one run share.

  Attributes:
    workdir: of the run; a measure may keep files in its `eval/`.
    config: the run's own, as it was saved.
    training: whether the run is still training, where less is measured; otherwise --mode=eval.
    protocol: how each number was measured; measures add what is needed to compare their numbers.
    entries: further entries of `eval.json`.
  """

  workdir: AnyPath
  config: Mapping[str, Any]
  training: bool
  protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
  entries: dict[str, Any] = dataclasses.field(default_factory=dict)
  _kept: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

  def once(self, name: str, make: Callable[[], T]) -> T:
    """The result of `make`, which is called once per name: for networks, or features of the data."""
    if name not in self._kept:
      self._kept[name] = make()
    return self._kept[name]


@runtime_checkable
class Measure(Protocol):
  """Computes numbers for a model. Subclass it; only `prepare` has a default.

  Attributes:
    name: how configs refer to it.
    meanings: name of each number that it may report -> its meaning in a sentence.
  """

  name: ClassVar[str]
  meanings: ClassVar[Mapping[str, str]]

  def prepare(self, settings: Mapping[str, Any], context: Context) -> None:
    """Load what the measure needs; called before training begins, and before anything is measured.

    Raises:
      UserError: something is missing.
    """

  def __call__(self, model: Model, source: Source, settings: Mapping[str, Any], context: Context) -> dict[str, float]:
    """The numbers; empty if the measure is switched off or does not apply to the model.

    Args:
      model: its `step` is the number of updates it has had.
      source: what it was trained on.
      settings: `run_settings.EvaluationConfig` by name; `samples` is the number of shapes to sample now.
      context: of the run.
    """


class Health(Measure):
  """Whether shapes are well formed (`health.shape_report`), over `samples` samples."""

  name: ClassVar[str] = "health"
  meanings: ClassVar[Mapping[str, str]] = {
    "shape/convex_share": "non-hollow share: samples that bulge towards the camera",
    "shape/depth_deviation": "standard deviation of a sample's depth, world units (median over samples)",
    "shape/depth_deviation_ratio": "the same as a multiple of the data's own",
    "shape/normal_disagreement_deg": "degrees between the field's normals and those of the depth (median)",
  }

  def __call__(self, model: Model, source: Source, settings: Mapping[str, Any], context: Context) -> dict[str, float]:
    samples, resolution = settings["samples"], settings["resolution"]
    if not (model.method.has_shape and samples):
      return {}
    context.protocol.update(shape_samples=samples, shape_resolution=resolution)
    deviation = context.once("data_depth_deviation", lambda: data_depth_deviation(source))
    return shape_report(model, samples=samples, data_deviation=deviation, resolution=resolution)


class Views(Measure):
  """Consistency of the surface between views and its thickness, over `views` samples."""

  name: ClassVar[str] = "views"
  meanings: ClassVar[Mapping[str, str]] = {
    "view/color_error": "colour of one view warped to another by its depth, mean difference in [0, 1]",
    "view/depth_error": "depth of one view warped to another, mean relative difference",
    "view/common_share": "share of pixels that are visible in both views",
    "shape/weighted_variance_e4": "thickness of the surface: variance of the distance along rays, x10^4 (GOF)",
    "shape/opaque_share": "share of rays that hit the surface, over which the thickness is averaged",
  }

  def __call__(self, model: Model, source: Source, settings: Mapping[str, Any], context: Context) -> dict[str, float]:
    samples = settings["views"]
    if not (model.method.has_shape and samples):
      return {}
    context.protocol["views"] = samples
    return view_consistency(model, samples=samples) | weighted_variance(model, samples=samples)


class Images(Measure):
  """The distance of generated pictures from real ones: of `images` in training, of `final_images` afterwards."""

  name: ClassVar[str] = "images"
  meanings: ClassVar[Mapping[str, str]] = image_meanings()

  def prepare(self, settings: Mapping[str, Any], context: Context) -> None:
    if self._count(settings, context):
      self._features(settings, context)

  def __call__(self, model: Model, source: Source, settings: Mapping[str, Any], context: Context) -> dict[str, float]:
    count = self._count(settings, context)
    if not count:
      return {}
    resolution, options = model.resolution, {"count_fake": count, "progress": progress}
    if context.training:
      # At the resolution of the current stage: at another, thin structures alias and dominate the distance.
      resolution = stage_at(model.method.stages, max(model.step - 1, 0)).resolution
      real_features = context.once("real_features", dict)
      options = {"count_fake": count, "count_real": 4 * count, "cache": real_features}
    prepared = np.asarray(source[0]["image"]).shape[0]
    features, resolution = self._features(settings, context), min(resolution, prepared)
    report = image_report(model, source, features=features, resolution=resolution, **options)
    context.protocol["images"] = report["protocol"]
    return report["values"]

  def _count(self, settings: Mapping[str, Any], context: Context) -> int:
    return settings["images" if context.training else "final_images"]

  def _features(self, settings: Mapping[str, Any], context: Context) -> FeatureNetwork:
    return context.once("features", lambda: choose_features(settings["features"], settings["features_file"]))


class Depth(Measure):
  """SIDE and MAD by the papers' protocol, with a depth network trained on `depth_pairs` generated pictures."""

  name: ClassVar[str] = "depth"
  meanings: ClassVar[Mapping[str, str]] = {
    "depth/side_e2": "SIDE x10^2: error of log depth without its mean, of a network trained on generated pairs",
    "depth/side_e2_std": "its standard deviation over test pictures",
    "depth/mad_deg": "MAD: mean degrees between normals of estimated and true depth",
    "depth/mad_deg_std": "its standard deviation over test pictures",
    "depth/mad_released_deg": "MAD with the rounding of the published code",
    "depth/side_e2_of_constant": "SIDE as a fraction of a constant depth's",
    "depth/mad_deg_of_constant": "MAD as a fraction of a constant depth's",
    "depth/train_loss": "loss of the depth network at the end of its training, world units",
  }

  def __call__(self, model: Model, source: Source, settings: Mapping[str, Any], context: Context) -> dict[str, float]:
    pairs = settings["depth_pairs"]
    if not (model.method.has_shape and pairs):
      return {}
    cameras = context.config["cameras"]
    protocol = DepthProtocol(pairs=pairs, near=cameras["near"], far=cameras["far"])
    protocol = dataclasses.replace(protocol, fit=dataclasses.replace(protocol.fit, steps=settings["depth_steps"]))
    folder = context.workdir / "eval" / f"depth_step_{model.step}"
    data, fov_deg = context.config["data"], cameras["fov_deg"]
    rows = depth_report({"model": model}, folder, data=data, protocol=protocol, fov_deg=fov_deg)
    context.protocol["depth"] = dataclasses.asdict(protocol)
    context.entries["depth_baselines"] = {name: row for name, row in rows.items() if name != "model"}
    return {f"depth/{name}": value for name, value in rows["model"].items()}


MEASURES: dict[str, Measure] = {measure.name: measure for measure in (Health(), Views(), Images(), Depth())}
"""Every measure that a config may list, by its name."""


def listed(settings: Mapping[str, Any], *, training: bool) -> tuple[Measure, ...]:
  """The measures that the `evaluation` section of a config lists for training, or for --mode=eval.

  Raises:
    UserError: an unknown name in one of the two lists.
  """
  lists = {name: settings[name] for name in ("training_measures", "measures")}
  for setting, names in lists.items():
    for name in names:
      if name not in MEASURES:
        known = ", ".join(MEASURES)
        raise UserError(f"config.evaluation.{setting}: no measure is called {name!r}; the measures are {known}")
  return tuple(MEASURES[name] for name in lists["training_measures" if training else "measures"])


def measure_all(
  measures: Iterable[Measure], model: Model, source: Source, settings: Mapping[str, Any], context: Context
) -> dict[str, float]:
  """The numbers of all these measures."""
  numbers: dict[str, float] = {}
  for measure in measures:
    values = measure(model, source, settings, context)
    numbers |= {name: float(value) for name, value in values.items()}
  return numbers


def meanings(measures: Iterable[Measure]) -> dict[str, str]:
  """Name of a number -> its meaning, for all these measures."""
  return {name: text for measure in measures for name, text in measure.meanings.items()}
