"""The `data` section of a config, opened: one function per kind of set, each imported only when it is asked for.

Keys: name (heads, folder, synface, cats, carla, named, none); split (train, validation, test; folder, cats, carla have
one); image_size, the side at which pictures are prepared; path, the directory (named: TFDS's own); tfds_name;
cache_dir; num_examples, a cap (heads: how many training heads to render); crop, pixels of the file; background, under
alpha; and `flip` and `resize`, which belong to `pipeline.batches`. None means the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from shapegan_jax.errors import UserError

KNOWN_KEYS = (
  "name",
  "split",
  "image_size",
  "path",
  "tfds_name",
  "cache_dir",
  "num_examples",
  "crop",
  "background",
  "flip",
  "resize",
)
SPLITS = ("train", "validation", "test")


@runtime_checkable
class Source(Protocol):
  """Random access to examples: 'image' uint8 [size, size, 3] and, where known, albedo, depth, normals, mask, yaw,
  pitch, light. A source that holds all its pictures may also offer `images()`, uint8 [n, size, size, 3]."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def open_source(data_config: Mapping[str, Any]) -> Source:
  """The set that a config's `data` section names. `flip` and `resize` belong to `batches` and are not read here.

  Raises:
    UserError: an unknown name, key or value, or whatever is wrong with the set itself.
  """
  unknown = sorted(set(data_config) - set(KNOWN_KEYS))
  if unknown:
    raise UserError(f"data.{unknown[0]} is not a setting: known are {', '.join(KNOWN_KEYS)}.")
  config = {"split": "train", "image_size": 64}
  config.update((key, value) for key, value in data_config.items() if value is not None)
  openers = {
    "heads": _open_heads,
    "folder": _open_folder,
    "synface": _open_synface,
    "cats": _open_cats,
    "carla": _open_carla,
    "named": _open_named,
    "none": lambda config: (),  # for methods whose pictures come from a generator
  }
  name = config.get("name")
  if name not in openers:
    raise UserError(f"data.name={name!r} is not known: choose one of {', '.join(openers)}.")
  if config["split"] not in SPLITS:
    raise UserError(f"data.split={config['split']!r} is not known: choose one of {', '.join(SPLITS)}.")
  for key in ("image_size", "num_examples", "crop"):
    if key in config and (isinstance(config[key], bool) or not isinstance(config[key], int) or config[key] < 1):
      raise UserError(f"data.{key}={config[key]!r} must be a whole number above 0.")
  return openers[name](config)


def _options(config: Mapping[str, Any], *extra: str) -> dict[str, Any]:
  return {key: config[key] for key in ("image_size", "num_examples", "cache_dir", *extra) if key in config}


def _open_heads(config: Mapping[str, Any]) -> Source:
  from shapegan_jax.data import heads

  counts = None
  if number := config.get("num_examples"):
    held_out = heads.SMOKE_COUNTS if number < heads.DEFAULT_COUNTS["train"] else heads.DEFAULT_COUNTS
    counts = {**held_out, "train": number}
  prepared = heads.prepare(config["image_size"], counts, cache_dir=config.get("cache_dir"))
  return heads.HeadsSource(prepared, config["split"])


def _open_folder(config: Mapping[str, Any]) -> Source:
  from shapegan_jax.data import folder

  return folder.open_folder(config.get("path"), **_options(config, "crop", "background"))


def _open_synface(config: Mapping[str, Any]) -> Source:
  from shapegan_jax.data import published

  return published.open_synface(config.get("path"), **_options(config, "crop", "split"))


def _open_cats(config: Mapping[str, Any]) -> Source:
  from shapegan_jax.data import published

  return published.open_cats(config.get("path"), **_options(config, "crop"))


def _open_carla(config: Mapping[str, Any]) -> Source:
  from shapegan_jax.data import published

  return published.open_carla(config.get("path"), **_options(config, "crop", "background"))


def _open_named(config: Mapping[str, Any]) -> Source:
  from shapegan_jax.data import named

  return named.open_named(config.get("tfds_name"), data_dir=config.get("path"), **_options(config, "crop", "split"))
