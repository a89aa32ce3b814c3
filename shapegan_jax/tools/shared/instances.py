"""The instances that a command renders: sampled from seeds, or found in photographs by `shapegan invert`.

A codes file is a `.safetensors` file with `codes/0`, `codes/1`, ... [n, ...] (the generator's modulations, in the order
of its `codes`), `yaw`, `pitch` [n] in radians, `lights` [n, 4] for methods with a light model, and the names.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.checkpoints import export_safetensors, import_safetensors
from shapegan_jax.errors import UserError
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key
from shapegan_jax.types import Array, Cameras, Codes, Lights

_KIND = "shapegan codes 1"


@dataclasses.dataclass(frozen=True)
class Instances:
  """n shapes, each with a pose (from seeds: the centre of the prior) and a light (from seeds: the mean light)."""

  latents: Array | Codes
  cameras: Cameras
  lights: Lights | None
  names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Instances:
    """One instance, with its leading axis."""
    index = range(len(self))[index]
    parts = jax.tree.map(lambda x: x[index : index + 1], (self.latents, self.cameras, self.lights))
    return Instances(*parts, self.names[index : index + 1])


def choose(model: Model, seeds: tuple[int, ...], codes: Path | None) -> Instances:
  """The instances of a command's `--codes`, if given, or of its `--seeds`."""
  return read_codes(codes, model) if codes is not None else from_seeds(model, seeds)


def from_seeds(model: Model, seeds: tuple[int, ...]) -> Instances:
  """One latent per seed, which depends on that seed alone."""
  if not seeds:
    raise UserError("--seeds: none given; name at least one, such as --seeds 0 1 2")
  if min(seeds) < 0 or max(seeds) >= 2**32:
    raise UserError(f"--seeds: {min(seeds)} to {max(seeds)} given; seeds are whole numbers from 0 to 2^32 - 1")
  latents = jnp.concatenate([model.sample_latents(1, root_key(seed)) for seed in seeds])
  n = len(seeds)
  return Instances(latents, model.central_cameras(n), model.mean_lights(n), tuple(f"seed {seed}" for seed in seeds))


def save_codes(path: Path, model: Model, instances: Instances) -> None:
  """Write instances whose latents are `Codes` to a codes file."""
  arrays = {
    "codes": {str(i): values for i, values in enumerate(instances.latents.values)},
    "yaw": instances.cameras.yaw,
    "pitch": instances.cameras.pitch,
  }
  if instances.lights is not None:
    arrays["lights"] = instances.lights.code
  names = {"kind": _KIND, "method": model.config["method"], "names": list(instances.names)}
  export_safetensors(path, arrays, names)


def read_codes(path: Path, model: Model) -> Instances:
  """The instances of a codes file.

  Raises:
    UserError: no such file, another kind of file, or codes of another model.
  """
  if not path.is_file():
    raise UserError(f"--codes={path}: no such file; shapegan invert writes one")
  arrays, about = import_safetensors(path)
  if about.get("kind") != _KIND:
    raise UserError(f"--codes={path}: is not a codes file; shapegan invert writes one (models are given with --model)")
  names, expected = _names(path, about), _shapes(model, len(about["names"]))
  arrays = {jax.tree_util.keystr(at, simple=True, separator="/"): x for at, x in jax.tree.leaves_with_path(arrays)}
  if any(name not in arrays or arrays[name].shape != shape for name, shape in expected.items()):
    raise UserError(f"--codes={path}: these codes belong to another model; name the one they were made with")
  if not all(np.isfinite(arrays[name]).all() for name in expected):
    raise UserError(f"--codes={path}: contains values that are not finite; run shapegan invert again")
  given = {name: jnp.asarray(arrays[name], jnp.float32) for name in expected}
  codes = Codes(tuple(given[name] for name in expected if name.startswith("codes/")))
  lights = Lights(given["lights"]) if "lights" in given else None
  return Instances(codes, model.cameras_at(given["yaw"], given["pitch"]), lights, names)


def _names(path: Path, about: dict[str, Any]) -> tuple[str, ...]:
  names = about.get("names")
  if not isinstance(names, list) or not names:
    raise UserError(f"--codes={path}: contains no names; run shapegan invert again")
  return tuple(str(name) for name in names)


def _shapes(model: Model, n: int) -> dict[str, tuple[int, ...]]:
  """Name -> shape of each array in a codes file of n instances of this model."""
  codes = jax.eval_shape(lambda: model.codes(model.sample_latents(n)))
  shapes = {f"codes/{i}": values.shape for i, values in enumerate(codes.values)}
  lights = {} if model.mean_lights() is None else {"lights": (n, 4)}
  return {**shapes, "yaw": (n,), "pitch": (n,), **lights}
