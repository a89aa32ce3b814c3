"""Untrained generators, small enough for a test of a command: a smoke config at the least sizes, saved to a file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from shapegan_jax.methods.catalog import build
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key

LIGHTS = {"prior": "gaussian", "mean": (0.0, 0.0, 0.0, 0.0), "covariance": tuple(map(tuple, [[0.0] * 4] * 4))}


def tiny(method: str, **changes: Any) -> Model:
  """`configs/<method>.py:smoke`, 8 wide; `changes` are settings by their dotted names."""
  config = importlib.import_module(f"configs.{method}").get_config("smoke")
  config.field.update(width=8, depth=2)
  if "mapping" in config:
    config.mapping.update(latent_dim=4, hidden_dim=8, n_hidden=1)
  config.rendering.eval_samples = 6
  config = config.to_dict()
  for name, value in changes.items():
    *parents, last = name.split(".")
    section = config
    for parent in parents:
      section = section[parent]
    section[last] = value
  if config.get("lights", {}).get("prior") == "fitted":
    config["lights"] = {**config["lights"], **LIGHTS}
  built = build(config)
  return Model(built, built.params_of(built.init(root_key(0))), config)


def saved(folder: Path, method: str, **changes: Any) -> Path:
  """The file of `tiny(method)` in a folder."""
  path = folder / f"{method}.safetensors"
  tiny(method, **changes).save(path)
  return path
