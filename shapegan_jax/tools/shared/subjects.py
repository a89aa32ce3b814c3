"""What a command shows: shapes drawn from seeds, or found in photographs by `shapegan invert`.

A codes file is a `.safetensors` file with `codes/0`, `codes/1`, ... [n, ...] (the modulations of the generator, in the
order of its `codes`), `yaw`, `pitch` [n] in radians, `lights` [n, 4] where the method knows light, and their names.
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
class Subjects:
  """n shapes, each with its own pose (from seeds: the centre of the prior) and light (from seeds: the mean light)."""

  latents: Array | Codes
  cameras: Cameras
  lights: Lights | None
  names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Subjects:
    """One of them, still with a leading axis."""
    index = range(len(self))[index]
    parts = jax.tree.map(lambda x: x[index : index + 1], (self.latents, self.cameras, self.lights))
    return Subjects(*parts, self.names[index : index + 1])


def choose(model: Model, seeds: tuple[int, ...], codes: Path | None) -> Subjects:
  """The subjects of a command's `--seeds` or, where given, `--codes`."""
  return read_codes(codes, model) if codes is not None else from_seeds(model, seeds)


def from_seeds(model: Model, seeds: tuple[int, ...]) -> Subjects:
  """One latent per seed, always the same for a seed whatever else is asked for."""
  if not seeds:
    raise UserError("--seeds: none given; name at least one, such as --seeds 0 1 2")
  if min(seeds) < 0 or max(seeds) >= 2**32:
    raise UserError(f"--seeds: {min(seeds)} to {max(seeds)} given; seeds are whole numbers from 0 to 2^32 - 1")
  latents = jnp.concatenate([model.sample_latents(1, root_key(seed)) for seed in seeds])
  n = len(seeds)
  return Subjects(latents, model.central_cameras(n), model.mean_lights(n), tuple(f"seed {seed}" for seed in seeds))


def save_codes(path: Path, model: Model, subjects: Subjects) -> None:
  """Write subjects whose latents are `Codes` to a codes file."""
  arrays = {
    "codes": {str(i): values for i, values in enumerate(subjects.latents.values)},
    "yaw": subjects.cameras.yaw,
    "pitch": subjects.cameras.pitch,
  }
  if subjects.lights is not None:
    arrays["lights"] = subjects.lights.code
  names = {"kind": _KIND, "method": model.config["method"], "names": list(subjects.names)}
  export_safetensors(path, arrays, names)


def read_codes(path: Path, model: Model) -> Subjects:
  """The subjects of a codes file.

  Raises:
    UserError: no such file, another kind of file, or codes of another model.
  """
  if not path.is_file():
    raise UserError(f"--codes={path}: no such file; shapegan invert writes one")
  arrays, about = import_safetensors(path)
  if about.get("kind") != _KIND:
    raise UserError(f"--codes={path}: is not a codes file; shapegan invert writes one (a model goes to --model)")
  names, expected = _names(path, about), _shapes(model, len(about["names"]))
  arrays = {jax.tree_util.keystr(at, simple=True, separator="/"): x for at, x in jax.tree.leaves_with_path(arrays)}
  if any(name not in arrays or arrays[name].shape != shape for name, shape in expected.items()):
    raise UserError(f"--codes={path}: the codes are those of another model; name the one they were found with")
  if not all(np.isfinite(arrays[name]).all() for name in expected):
    raise UserError(f"--codes={path}: holds numbers that are not finite; run shapegan invert again")
  given = {name: jnp.asarray(arrays[name], jnp.float32) for name in expected}
  codes = Codes(tuple(given[name] for name in expected if name.startswith("codes/")))
  lights = Lights(given["lights"]) if "lights" in given else None
  return Subjects(codes, model.cameras_at(given["yaw"], given["pitch"]), lights, names)


def _names(path: Path, about: dict[str, Any]) -> tuple[str, ...]:
  names = about.get("names")
  if not isinstance(names, list) or not names:
    raise UserError(f"--codes={path}: names no subjects; run shapegan invert again")
  return tuple(str(name) for name in names)


def _shapes(model: Model, n: int) -> dict[str, tuple[int, ...]]:
  """What a codes file of n subjects of this model holds."""
  codes = jax.eval_shape(lambda: model.codes(model.sample_latents(n)))
  shapes = {f"codes/{i}": values.shape for i, values in enumerate(codes.values)}
  lights = {} if model.mean_lights() is None else {"lights": (n, 4)}
  return {**shapes, "yaw": (n,), "pitch": (n,), **lights}
