"""GRAF's generator: the conditional radiance field, its sizes inferred from the file, and the published rendering.

A released checkpoint is one dictionary of state dicts. It contains the field twice: as trained (`generator`) and
averaged (`generator_test`), which the authors evaluate and which is read here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from shapegan_jax.convert import layouts
from shapegan_jax.convert.layouts import Shape, Slot
from shapegan_jax.convert.pickles import Unreadable, printable
from shapegan_jax.convert.torch_files import naming, read_torch
from shapegan_jax.convert.torch_values import tensors_of

Dataset = Literal["carla", "celeba", "celebahq", "cats", "cub"]

# The number of octaves that encode positions and directions is not in the files; all published models have these.
_POSITION_BANDS, _DIRECTION_BANDS = 10, 4


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a field, inferred from a file's tensors. Layer `skip` + 1 reads the inputs again."""

  width: int
  depth: int
  skip: int
  shape_dim: int
  appearance_dim: int
  view_condition: bool


@dataclasses.dataclass(frozen=True)
class Generator:
  """A converted generator: parameters {"field"} and the number of updates (0: not in the file)."""

  params: dict[str, Any]
  sizes: Sizes
  step: int = 0
  notes: tuple[str, ...] = ()


def read_generator(path: str | Path) -> Generator:
  """The generator in the file at `path`, averaged if there is an average. A state dict of the field alone is read too.

  Raises:
    UserError: the file cannot be read, or contains something else.
  """
  tree = read_torch(path)
  with naming(path):
    step, notes, weights = 0, (), tree
    if isinstance(tree, dict) and ("generator" in tree or "generator_test" in tree):
      weights = tree.get("generator_test", tree.get("generator"))
      it = tree.get("it")
      step = it if type(it) is int and 0 <= it < 2**31 else 0
      if "generator_test" not in tree:
        notes = ("the file holds no average; the raw training weights are used",)
    tensors = layouts.without_prefix(tensors_of(weights))
    if any(name.startswith("siren.") for name in tensors):
      raise Unreadable("a generator of pi-GAN, GOF or ShadeGAN; use --method=pigan, gof or shadegan")
    sizes = sizes_of({name: tensor.shape for name, tensor in tensors.items()})
    return Generator(layouts.fill(generator_slots(sizes), tensors), sizes, step, notes)


def generator_slots(sizes: Sizes) -> list[Slot]:
  """The slots of all tensors of a generator."""
  width, given = sizes.width, _encoded(_POSITION_BANDS) + sizes.shape_dim
  slots: list[Slot] = []
  for i in range(sizes.depth):
    inputs = given if i == 0 else width + given * (i == sizes.skip + 1)
    slots += layouts.linear(f"pts_linears.{i}", f"field/trunk_{i}", inputs, width)
  directions = _encoded(_DIRECTION_BANDS) if sizes.view_condition else 0
  inputs = width + directions + sizes.appearance_dim
  slots += layouts.linear("views_linears.0", "field/color_hidden", inputs, width // 2)
  slots += layouts.linear("feature_linear", "field/color_features", width, width)
  slots += layouts.linear("alpha_linear", "field/density_head", width, 1)
  return slots + layouts.linear("rgb_linear", "field/color_head", width // 2, 3)


def sizes_of(shapes: Mapping[str, Shape]) -> Sizes:
  """The sizes of a generator from the shapes of its tensors.

  Raises:
    Unreadable: a tensor that determines a size is missing or impossible; `layouts.fill` checks the others.
  """

  def matrix(name: str) -> Shape:
    shape = shapes.get(name)
    if shape is None:
      raise Unreadable(f"lacks the tensor {name}: not a generator of GRAF, or damaged")
    if len(shape) != 2:
      raise Unreadable(f"{name} has shape {printable(str(shape))}: not a generator of GRAF, or damaged")
    return shape

  depth = next(n for n in itertools.count() if f"pts_linears.{n}.weight" not in shapes)
  width, given = matrix("pts_linears.0.weight")
  wide = [i for i in range(1, depth) if matrix(f"pts_linears.{i}.weight")[1] != width]
  shape_dim = given - _encoded(_POSITION_BANDS)
  extra = matrix("views_linears.0.weight")[1] - width
  view_condition = extra != shape_dim  # GRAF's codes have equal lengths
  appearance_dim = extra - (_encoded(_DIRECTION_BANDS) if view_condition else 0)
  if len(wide) != 1 or width < 2 or shape_dim < 1 or appearance_dim < 1:
    raise Unreadable("its layers do not have the inputs of GRAF's field; is it of another method or variant?")
  return Sizes(width, depth, wide[0] - 1, shape_dim, appearance_dim, view_condition)


def _encoded(bands: int) -> int:
  """The length of the positional encoding of a 3D vector."""
  return 3 + 6 * bands


def _cameras(fov_deg: float, radius: tuple[float, float], yaw_deg: float, pitch_deg: tuple[float, float]) -> dict:
  return {
    "fov_deg": fov_deg,
    "near": 7.5,
    "far": 12.5,
    "radius": radius[0],
    "radius_max": radius[1] if radius[1] > radius[0] else 0.0,
    "planar_range": True,
    "align": "left",
    "prior": "spherical",
    "yaw": (-math.radians(yaw_deg), math.radians(yaw_deg)),
    "pitch": tuple(map(math.radians, pitch_deg)),
  }


# The azimuth of the frontal view in degrees, the resolution, the background, and the cameras.
_SETS: dict[str, tuple[float, int, float, dict[str, Any]]] = {
  "carla": (0.0, 64, 1.0, _cameras(30.0, (10.0, 10.0), 180.0, (5.0, 90.0))),
  "celeba": (45.0, 64, 0.0, _cameras(10.0, (9.5, 10.5), 45.0, (5.0, 20.0))),
  "celebahq": (45.0, 256, 0.0, _cameras(10.0, (9.5, 10.5), 45.0, (5.0, 20.0))),
  "cats": (35.0, 64, 0.0, _cameras(10.0, (10.0, 10.0), 35.0, (5.0, 20.0))),
  "cub": (0.0, 64, 1.0, _cameras(30.0, (9.0, 11.0), 180.0, (-5.0, 30.0))),
}


def nerf_config(generator: Generator, *, dataset: Dataset = "carla") -> dict[str, Any]:
  """A complete config for a generator that was trained on `dataset`, rendered as by the authors (64 samples per ray).

  The resolution is the smallest published one: it is not in the file, and `Model.render` takes any.
  """
  front_deg, resolution, background, cameras = _SETS[dataset]
  sizes = generator.sizes
  return {
    "method": "graf",
    "field": {
      **dataclasses.asdict(sizes),
      "position_bands": _POSITION_BANDS,
      "direction_bands": _DIRECTION_BANDS,
      "warp_scale": 1.0,
      "z_up": True,
      "front_deg": front_deg,
      "sine": "exact",
      "sphere_start": {},
    },
    "cameras": dict(cameras),
    "patches": {"size": 32},
    "discriminator": {"width_multiplier": 1.0},
    "rendering": {
      **{"fine": False, "clamp": "relu", "last": "published", "last_back": False, "eval_last_back": False},
      **{"background": background, "normalise_distance": True, "density_noise_steps": 5000},
      **{"eval_samples": 64, "chunk_points": 0},
    },
    "stages": {
      **{"start": (0,), "resolution": (resolution,), "batch_size": (8,), "samples": (64,)},
      **{"generator_rate": (6.25e-5,), "discriminator_rate": (1.25e-5,), "topk_group": (0,), "gradient_scale": (1.0,)},
      **{"fade_steps": 0, "fade_first": False},
    },
    "objectives": {"r1": 20 / 1024, "pose": 0.0, "latent": 0.0, "topk_share": 1.0},
    "optimizers": {"kind": "rmsprop", "clip": 0.0, "discriminator_clip": 0.0},
    "averages": {"warmup": False},
  }
