"""Opens the data set of a config: one function per kind of set, each imported only when it is needed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from shapegan_jax.sections import Count, section, settings_of

Name = Literal["heads", "folder", "synface", "cats", "carla", "named", "none"]
Split = Literal["train", "validation", "test"]
Resize = Literal["antialias", "legacy"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The section `data`; None stands for the set's default.

  Attributes:
    name: which set; `none` is for methods whose pictures come from a generator.
    split: folder, cats and carla have one.
    image_size: height and width of the prepared pictures.
    path: the directory (named: TFDS's own).
    tfds_name: named: the name of the set in TFDS.
    cache_dir: where prepared pictures are stored.
    num_examples: at most this many (heads: the number of training heads to render).
    crop: side of the centred square, in pixels of the file.
    background: the colour under transparent pixels.
    flip, resize: how `pipeline.batches` mirrors and resizes pictures.
  """

  name: Name
  split: Split = "train"
  image_size: Count = 64
  path: str | None = None
  tfds_name: str | None = None
  cache_dir: str | None = None
  num_examples: Count | None = None
  crop: Count | None = None
  background: str | None = None
  flip: bool = True
  resize: Resize = "antialias"


@runtime_checkable
class Source(Protocol):
  """Random access to examples: 'image' uint8 [size, size, 3] and, if known, albedo, depth, normals, mask, yaw,
  pitch, light. A source that holds all its pictures may also offer `images()`, uint8 [n, size, size, 3]."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def read_data(data_config: Mapping[str, Any]) -> DataConfig:
  """The section `data` of a config.

  Raises:
    UserError: an unknown setting or an invalid value.
  """
  known = settings_of(DataConfig)
  given = {key: value for key, value in data_config.items() if value is not None or key not in known}
  paths = {key: os.fspath(given[key]) for key in ("path", "cache_dir") if isinstance(given.get(key), os.PathLike)}
  return section(DataConfig, {"name": None, **given, **paths}, "data")


def open_source(data_config: Mapping[str, Any]) -> Source:
  """The data set that the `data` section of a config names. `flip` and `resize` belong to `pipeline.batches`.

  Raises:
    UserError: an unknown name, setting or value, or a problem of the set itself.
  """
  config = read_data(data_config)
  openers: dict[Name, Callable[[DataConfig], Source]] = {
    "heads": _open_heads,
    "folder": _open_folder,
    "synface": _open_synface,
    "cats": _open_cats,
    "carla": _open_carla,
    "named": _open_named,
    "none": lambda config: (),
  }
  return openers[config.name](config)


def _options(config: DataConfig, *extra: str) -> dict[str, Any]:
  """The settings of these names that are not None."""
  chosen = {name: getattr(config, name) for name in ("image_size", "num_examples", "cache_dir", *extra)}
  return {name: value for name, value in chosen.items() if value is not None}


def _open_heads(config: DataConfig) -> Source:
  from shapegan_jax.data import heads

  counts = None
  if number := config.num_examples:
    held_out = heads.SMOKE_COUNTS if number < heads.DEFAULT_COUNTS["train"] else heads.DEFAULT_COUNTS
    counts = {**held_out, "train": number}
  prepared = heads.prepare(config.image_size, counts, cache_dir=config.cache_dir)
  return heads.HeadsSource(prepared, config.split)


def _open_folder(config: DataConfig) -> Source:
  from shapegan_jax.data import folder

  return folder.open_folder(config.path, **_options(config, "crop", "background"))


def _open_synface(config: DataConfig) -> Source:
  from shapegan_jax.data import published

  return published.open_synface(config.path, **_options(config, "crop", "split"))


def _open_cats(config: DataConfig) -> Source:
  from shapegan_jax.data import published

  return published.open_cats(config.path, **_options(config, "crop"))


def _open_carla(config: DataConfig) -> Source:
  from shapegan_jax.data import published

  return published.open_carla(config.path, **_options(config, "crop", "background"))


def _open_named(config: DataConfig) -> Source:
  from shapegan_jax.data import named

  return named.open_named(config.tfds_name, data_dir=config.path, **_options(config, "crop", "split"))
