"""Configs of converted generators with the published rendering settings, as plain dictionaries for `methods`.

The values are those of the presets in `configs/`, which are not part of the package; a test compares the two. The
single stage is the last one of the authors' curriculum.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from shapegan_jax.convert.pigan_family import Generator, Method
from shapegan_jax.errors import UserError

Dataset = Literal["celeba", "bfm", "cats", "carla"]

_FACES = {
  **{"fov_deg": 12.0, "near": 0.88, "far": 1.12, "radius": 1.0},
  **{"prior": "gaussian", "yaw": (0.0, 0.3), "pitch": (0.0, 0.155)},
}
_CAMERAS: dict[str, dict[str, Any]] = {
  "celeba": _FACES,
  "bfm": _FACES,
  "cats": {**_FACES, "near": 0.8, "far": 1.2, "prior": "uniform", "yaw": (0.0, 0.5), "pitch": (0.0, 0.4)},
  "carla": {
    **{"fov_deg": 30.0, "near": 0.7, "far": 1.3, "radius": 1.0},
    **{"prior": "spherical", "yaw": (-math.pi, math.pi), "pitch": (0.05558, math.pi / 2)},
  },
}


class _Stage(NamedTuple):
  """The last stage of a curriculum, with the total batch size over the authors' GPUs."""

  resolution: int
  batch_size: int
  samples: int
  generator_rate: float
  discriminator_rate: float


_STAGES: dict[str, dict[str, _Stage]] = {
  "pigan": {
    "celeba": _Stage(64, 56, 12, 6e-5, 2e-4),
    "bfm": _Stage(128, 4, 12, 2e-6, 2e-5),  # the baseline of ShadeGAN's authors
    "cats": _Stage(64, 28, 24, 6e-5, 2e-4),
    "carla": _Stage(128, 10, 48, 1e-5, 1e-4),
  },
  "gof": {
    "bfm": _Stage(128, 32, 12, 4e-6, 2e-5),
    "celeba": _Stage(128, 32, 9, 4e-6, 2e-5),
    "cats": _Stage(128, 32, 9, 4e-6, 2e-5),
  },
  "shadegan": {
    "celeba": _Stage(128, 16, 12, 2e-6, 2e-5),
    "bfm": _Stage(128, 4, 12, 2e-6, 2e-5),
    "cats": _Stage(64, 128, 20, 6e-5, 2e-4),
  },
}
"""The first data set of each method is its default."""

_SURFACES = {
  "bfm": {"fine": 3, "half_width": (0.12, 0.02), "rate": 3e-5},
  "celeba": {"fine": 6, "half_width": (0.12, 0.03), "rate": 1e-5},
  "cats": {"fine": 6, "half_width": (0.2, 0.1), "rate": 2e-5},
}
_REGULARISERS = {
  "bfm": {"opacity": 0.1, "opacity_rate": 4e-5, "normal": 0.01, "neighbour": 1e-3},
  "celeba": {"opacity": 0.05, "opacity_rate": 5e-6, "normal": 0.05, "neighbour": 1e-2},
  "cats": {"opacity": 0.05, "opacity_rate": 1e-5, "normal": 0.05, "neighbour": 1e-2},
}
"""GOF's settings: the region around the surface, and the regularisers."""

_TRACKED_WIDTH = {(False, "celeba"): 0.06491, (True, "celeba"): 0.06423}
"""The total width of ShadeGAN's sampling window as released, by (view conditioning, data set)."""

_LIGHTS = {
  "prior": "gaussian",
  "mean": (0.17, 0.42, 0.0, 0.0),
  "covariance": ((0.04, 0.0, 0.0, 0.0), (0.0, 0.04, 0.0, 0.0), (0.0, 0.0, 0.25, 0.0), (0.0, 0.0, 0.0, 0.09)),
  "ramp": (5000, 7000),
}
"""The mean is from the authors' render script; their fitted priors are files next to the weights (see configs)."""


def siren_config(generator: Generator, *, method: Method, dataset: Dataset | None = None) -> dict[str, Any]:
  """A complete config for a generator of pi-GAN, GOF or ShadeGAN that was trained on `dataset`.

  `dataset=None` means celeba (GOF: bfm), or carla for a module without a box warp. Volume, poses, samples and the
  surface window are the authors' for that data set; samples are those of training, which their rendering scripts
  double.

  Raises:
    UserError: the authors published no such model.
  """
  stages = _STAGES[method]
  if dataset is None:
    dataset = "carla" if generator.warp_scale == 1.0 and "carla" in stages else next(iter(stages))
  if dataset not in stages:
    raise UserError(f"--dataset={dataset}: no {method} model was published for it; choose one of {', '.join(stages)}")
  sizes, stage = generator.sizes, stages[dataset]
  warp_scale = generator.warp_scale or (1.0 if dataset == "carla" else 2 / 0.24)
  config = {
    "method": method,
    "mapping": {"latent_dim": sizes.latent_dim, "hidden_dim": sizes.hidden_dim, "n_hidden": sizes.n_hidden},
    "field": {
      "width": sizes.width,
      "depth": sizes.depth,
      "view_condition": sizes.view_condition,
      "light_condition": sizes.light_condition,
      "frequency_scale": 15.0,
      "frequency_shift": 30.0,
      "warp_scale": warp_scale,
      "init_constant": 25.0,
      "sine": "exact",  # these weights were trained with the exact sine
      "compute_dtype": "float32",
      "sphere_start": {},
    },
    "cameras": dict(_CAMERAS[dataset]),
    "rendering": {
      "fine": True,
      "clamp": "relu",
      "last": "published",
      "last_back": False,
      "eval_last_back": False,
      "background": 1.0 if dataset == "carla" else 0.0,
      "normalise_distance": method != "pigan" or dataset == "bfm",
      "density_noise_steps": 0 if method == "gof" else 5000,
      "eval_samples": 0,
      "chunk_points": 0,
    },
    "discriminator": _discriminator(method, dataset, stage.resolution),
    "stages": {
      **{name: (value,) for name, value in stage._asdict().items()},
      **{"start": (0,), "topk_group": (0,), "gradient_scale": (1.0,)},
      **{"fade_steps": 0, "fade_first": False},
    },
    "objectives": {"pose": 0.0 if dataset in ("cats", "carla") and method != "gof" else 15.0},
  }
  if method == "gof":
    config["surface"] = {"coarse": 9, "root_steps": 4, "root_rule": "secant", **_SURFACES[dataset]}
    config["regularisers"] = {**_REGULARISERS[dataset], "meaning": "paper"}
  if method == "shadegan":
    config["lights"] = dict(_LIGHTS)
    config["tracking"] = _tracking(generator, dataset)
    if config["tracking"]["enabled"]:
      config["rendering"]["eval_samples"] = 11 if dataset == "cats" else 6  # at the end of training
  return config


def _discriminator(method: Method, dataset: Dataset, resolution: int) -> dict[str, Any]:
  strided = (method != "gof" and dataset == "cats") or (method, dataset) == ("pigan", "celeba")
  plain = method != "gof" and dataset == "cats"
  return {
    "kind": "strided" if strided else "progressive",
    "max_resolution": resolution,
    "latent_dim": 0 if plain else 256,
    "pose": not plain,
    "width_multiplier": 1.0,
    "max_channels": 400,
    "coord": not plain,
  }


def _tracking(generator: Generator, dataset: Dataset) -> dict[str, Any]:
  """Rendering with the surface network, if the file has one, in the sampling window at the end of its training."""
  sizes = generator.sizes
  if not sizes.surface_width:
    return {"enabled": False}
  cats = dataset == "cats"
  width = 0.0748 if cats else _TRACKED_WIDTH.get((sizes.view_condition, dataset), 0.065)
  return {
    "enabled": True,
    "inference": True,
    "start": 5000,
    "rate": 1e-4 if cats else 3e-5,
    "width": (0.24, width),
    "samples": 10 if cats else 6,
    "weight": 1.0,
    "perceptual": False,
    "net_width": sizes.surface_width,
    "net_resolution": sizes.surface_resolution,
  }
