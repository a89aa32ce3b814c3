"""What a run reads of its config beside the sections of its method: steps, previews, checkpoints, measures, data.

Where a config is silent, nothing is shown, saved or measured before the last step.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

from shapegan_jax.data.sources import read_data
from shapegan_jax.errors import UserError
from shapegan_jax.sections import Count, Natural, Schema, describe, section

FeatureName = Literal["random", "alexnet", "vgg16", "inception"]


@dataclasses.dataclass(frozen=True)
class PreviewConfig:
  """When a picture of `count` fixed latents is written: every `every` steps (0: never), once after `first`, and last.

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
  """What is measured (`evaluation.measures`), how often and of how many samples; 0 leaves it out.

  Attributes:
    measures, training_measures: by name, what --mode=eval measures and what training logs.
    every: steps between measurements in training.
    samples, final_samples: of shapes, in training, and at its end and by --mode=eval (0: `samples`).
    images, final_images: pictures that are compared with real ones, in training and by --mode=eval.
    resolution: at which shapes are judged; None: that of the last stage.
    views: shapes that --mode=eval sees from two sides.
    features, features_file: the network that compares pictures, and its weights.
    depth_pairs, depth_steps: how many generated pairs train a depth network by --mode=eval, and for how many steps.
    columns: of the preview that --mode=eval draws.
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
"""The sections that the runners read, whatever the method."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """`num_steps` updates with random numbers of `seed`, a line in the log every `log_every`, and the sections."""

  seed: Natural = 0
  num_steps: Natural = 1000
  log_every: Count = 10
  preview: PreviewConfig = PreviewConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  evaluation: EvaluationConfig = EvaluationConfig()


SCALARS = {"seed": Natural, "num_steps": Natural, "log_every": Count}


def check_run(config: Mapping[str, Any], *, data: bool = True) -> RunSettings:
  """The settings of a run, all of which may be missing; what the method reads is not looked at.

  Args:
    config: plain nested settings (`ConfigDict.to_dict()`).
    data: whether the section `data` must name one of the package's own sets; False where a source is given.

  Raises:
    UserError: the first setting that does not exist, or whose value may not stand there.
  """
  scalars = {name: _whole_number(config[name], name) for name in SCALARS if name in config}
  sections = {name: section(cls, config.get(name), name) for name, cls in RUN_SECTIONS.items()}
  if data and "data" in config:
    read_data(config["data"])
  return RunSettings(**scalars, **sections)


def _whole_number(value: Any, name: str) -> int:
  hint = SCALARS[name]
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not whole or value < get_args(hint)[1].least:
    raise UserError(f"config.{name}: {value!r} is not {describe(hint)}")
  return int(value)
