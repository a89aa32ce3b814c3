"""The settings of a run besides those of its method: steps, previews, checkpoints, measures and data.

By default nothing is previewed, saved or measured before the last step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from shapegan_jax.data.sources import read_data
from shapegan_jax.sections import Count, Natural, Schema, read_value, section

FeatureName = Literal["random", "alexnet", "vgg16", "inception"]


@dataclasses.dataclass(frozen=True)
class PreviewConfig:
  """A preview of `count` fixed latents is written every `every` steps (0: never), after step `first`, and at the end.

  `resolution` None: that of the last stage.
  """

  every: Natural = 0
  first: Natural = 0
  count: Natural = 8
  resolution: Count | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """The state is saved every `every` steps (0: only at the end); the newest `keep` checkpoints stay on disk."""

  every: Natural = 0
  keep: Count = 2
  asynchronous: bool = True


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What is measured (`evaluation.measures`), how often and on how many samples; 0 switches a measure off.

  Attributes:
    measures, training_measures: names of the measures of --mode=eval and of those that training logs.
    every: steps between measurements in training.
    samples, final_samples: number of shapes in training; at its end and by --mode=eval (0: `samples`).
    images, final_images: number of pictures compared with real ones, in training and by --mode=eval.
    resolution: of the measured shapes; None: that of the last stage.
    views: number of shapes that --mode=eval compares between views.
    features, features_file: the network whose features compare pictures, and its weights.
    depth_pairs, depth_steps: number of generated pairs that --mode=eval trains a depth network on, and of steps.
    columns: of the preview that --mode=eval renders.
  """

  measures: tuple[str, ...] = ("health", "views", "images", "depth")
  training_measures: tuple[str, ...] = ("health", "images")
  every: Natural = 0
  samples: Natural = 256
  final_samples: Natural | None = None
  images: Natural = 0
  final_images: Natural = 0
  resolution: Count | None = None
  views: Natural = 0
  features: FeatureName = "random"
  features_file: str | None = None
  depth_pairs: Natural = 0
  depth_steps: Count = 1500
  columns: Count = 8


RUN_SECTIONS: Schema = {"preview": PreviewConfig, "checkpoint": CheckpointConfig, "evaluation": EvaluationConfig}
"""The sections that are the same for every method."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """`num_steps` updates with random numbers from `seed`, logged every `log_every` steps, and the sections."""

  seed: Natural = 0
  num_steps: Natural = 1000
  log_every: Count = 10
  preview: PreviewConfig = PreviewConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  evaluation: EvaluationConfig = EvaluationConfig()


SCALARS = {"seed": Natural, "num_steps": Natural, "log_every": Count}


def check_run(config: Mapping[str, Any], *, data: bool = True) -> RunSettings:
  """The settings of a run, all of which have defaults. The sections of the method are ignored.

  Args:
    config: plain nested settings (`ConfigDict.to_dict()`).
    data: whether `data` must name one of the package's data sets; False if a source is given.

  Raises:
    UserError: the first unknown setting or invalid value.
  """
  scalars = {name: read_value(hint, config[name], name) for name, hint in SCALARS.items() if name in config}
  sections = {name: section(cls, config.get(name), name) for name, cls in RUN_SECTIONS.items()}
  if data and "data" in config:
    read_data(config["data"])
  return RunSettings(**scalars, **sections)
