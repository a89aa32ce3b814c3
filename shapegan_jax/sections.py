"""The sections of a config: plain nested settings become the dataclasses that methods and runners read.

A dataclass is the schema of its section: its fields are the settings, its type hints say what may stand there, its
defaults hold where a config is silent. What does not fit is the user's error, in one line that names the setting, the
value and what may stand in its place. Files say which `FORMAT` of these names they were written in.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from shapegan_jax.errors import UserError

T = TypeVar("T")

FORMAT = 1
"""Of exported files and `config.json`; those that carry no number are of format 0."""

RENAMED = {
  "critic": "discriminator",
  "stages.parts": "stages.micro_batches",
  "discriminator.exported": "export.discriminator",
  "gan.network.critic": "gan.network.discriminator",
  "gan.network.discriminator.exported": "gan.network.export.discriminator",
  "subjects": "instances",
  "instances.instance": "instances.instance_specific",
  "stages.reading": "stages.pose_warmup",
  "objectives.latents": "objectives.latent_regression",
  "objectives.moments": "objectives.moment_matching",
  "objectives.anchor": "objectives.depth_prior",
  "objectives.height": "objectives.depth_scale",
  "objectives.asked": "objectives.pose_consistency",
  "optimizers.rise": "optimizers.warmup",
  "optimizers.fall": "optimizers.cooldown",
}
"""Settings of format 0 and what they are called now, as dotted names below `config`; a section stands for all in it."""


@dataclasses.dataclass(frozen=True)
class AtLeast:
  """The least value of a number: `width: Annotated[int, AtLeast(1)]`."""

  least: int | float


Count = Annotated[int, AtLeast(1)]
"""A whole number of things of which there is at least one."""
Natural = Annotated[int, AtLeast(0)]
"""A whole number that may be zero, which mostly stands for "off"."""
Weight = Annotated[float, AtLeast(0)]
"""A number that may not be negative."""

Schema = Mapping[str, Any]
"""Section -> its dataclass; or kind -> dataclass, where `kind` chooses one (the first is the default); or dataclass |
None, where a section that is not there means something."""

RUN_SETTINGS = ("method", "seed", "num_steps", "log_every", "preview", "checkpoint", "evaluation", "data")
"""What a config holds beside the sections of its method: read by the loop and by the data."""


def read_sections(config: Mapping[str, Any], schema: Schema, *, others: tuple[str, ...] = ()) -> dict[str, Any]:
  """Every section of `schema` as its dataclass; sections that a config lacks have their defaults.

  Args:
    config: plain nested settings (`ConfigDict.to_dict()`).
    schema: what is read.
    others: names in `config` that somebody else reads.

  Raises:
    UserError: a section or a setting that nobody reads, or a value that may not stand there.
  """
  for name in config:
    if name not in schema and name not in others:
      raise UserError(f"config.{name}: {_unknown(name, sorted([*schema, *others]), 'section')}")
  return {name: _section_of(cls, config.get(name), name) for name, cls in schema.items()}


def section(cls: type[T], values: Any, name: str) -> T:
  """Dataclass `cls` from the settings of the section `name` (None or {}: its defaults).

  Raises:
    UserError: a setting that `cls` does not have, or a value that may not stand there.
  """
  values = {} if values is None else values
  if not isinstance(values, Mapping):
    raise UserError(f"config.{name}: {_shown(values)} is no section; it has {', '.join(_settings(cls))}")
  hints = _settings(cls)
  for key in values:
    if key not in hints:
      raise UserError(f"config.{name}.{key}: {_unknown(f'{name}.{key}', [f'{name}.{k}' for k in hints], 'setting')}")
  read = {key: read_value(hints[key], value, f"{name}.{key}") for key, value in values.items()}
  try:
    return cls(**read)
  except TypeError as error:  # a setting without a default is missing
    raise UserError(f"config.{name}: {error}") from None


def kind_of(config: Mapping[str, Any], name: str, kinds: Mapping[str, Any], default: str | None = None) -> str:
  """The `kind` of a section, one of `kinds` (where nothing is said: `default`, or the first).

  Raises:
    UserError: it is none of them.
  """
  values = config.get(name)
  default = next(iter(kinds)) if default is None else default
  kind = values.get("kind", default) if isinstance(values, Mapping) else default
  if not isinstance(kind, str) or kind not in kinds:
    raise UserError(f"config.{name}.kind: {_shown(kind)} is not one of {', '.join(kinds)}")
  return kind


def without_kind(values: Any) -> Any:
  """The settings of a section but for its `kind`; what is no section is left for `section` to refuse."""
  return {key: value for key, value in values.items() if key != "kind"} if isinstance(values, Mapping) else values


def settings_of(cls: type) -> dict[str, Any]:
  """Setting -> type hint of a section's dataclass."""
  return dict(_settings(cls))


def upgraded(config: Mapping[str, Any], written: int = 0) -> dict[str, Any]:
  """A config of the format `written` in today's names."""
  result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
  result.pop("format", None)
  if written < 1:
    for old, new in RENAMED.items():
      _rename(result, old.split("."), new.split("."))
  return result


def check_format(written: Any, path: Any) -> int:
  """The format of a file, if this version can read it.

  Raises:
    UserError: it is none, or a newer one.
  """
  if isinstance(written, bool) or not isinstance(written, int) or written < 0:
    raise UserError(f"{path}: its format is {_shown(written)}, not a whole number; export or train it again")
  if written > FORMAT:
    raise UserError(
      f"{path}: was written by a newer version of shapegan_jax (format {written}; this one reads up to {FORMAT}); "
      "update with pip install -U shapegan_jax"
    )
  return written


def _rename(config: dict[str, Any], old: list[str], new: list[str]) -> None:
  """Move what stands at `old` to `new`, if it is there and `new` is free."""
  *parents, last = old
  node: Any = config
  for name in parents:
    node = node.get(name) if isinstance(node, dict) else None
  if not isinstance(node, dict) or last not in node:
    return
  target = config
  for name in new[:-1]:
    target = target.setdefault(name, {})
  if isinstance(target, dict):
    target.setdefault(new[-1], node.pop(last))


def _unknown(name: str, known: list[str], what: str) -> str:
  """Why a name is refused, and what may have been meant."""
  if name in RENAMED:
    return f"is called config.{RENAMED[name]} now"
  near = difflib.get_close_matches(name, known, n=1)
  parent = name.rpartition(".")[0]
  holder = f"config.{parent}" if parent else "this method's config"
  meant = f"did you mean {near[0].rpartition('.')[2]}? " if near else ""
  return f"no such {what}; {meant}{holder} has {', '.join(sorted(k.rpartition('.')[2] for k in known))}"


def chosen(cls: Any, values: Any, name: str) -> type:
  """The dataclass of a section, of those that a `Schema` allows there.

  Raises:
    UserError: its `kind` is none of them.
  """
  if isinstance(cls, types.UnionType):
    return typing.get_args(cls)[0]
  return cls[kind_of({name: values}, name, cls)] if isinstance(cls, Mapping) else cls


def _section_of(cls: Any, values: Any, name: str) -> Any:
  if isinstance(cls, types.UnionType) and not values:
    return None
  return section(chosen(cls, values, name), without_kind(values) if isinstance(cls, Mapping) else values, name)


def _settings(cls: type) -> dict[str, Any]:
  hints = typing.get_type_hints(cls, include_extras=True)
  # A Linen module is a dataclass, whose `parent` and `name` are the framework's.
  inner = {"parent", "name"} if hasattr(cls, "parent") else set()
  return {f.name: hints.get(f.name, Any) for f in dataclasses.fields(cls) if f.init and f.name not in inner}


def read_value(hint: Any, value: Any, name: str) -> Any:
  """The setting `config.NAME` as its type hint asks for it.

  Raises:
    UserError: `value` may not stand there.
  """
  try:
    return _converted(hint, value, name)
  except ValueError:
    raise UserError(f"config.{name}: {_shown(value)} is not {describe(hint)}") from None


def _converted(hint: Any, value: Any, name: str) -> Any:
  """`value` as `hint` asks for it (lists, as JSON has them, become tuples), or ValueError."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return _frozen(value)
  if origin is Annotated:
    number = _converted(arguments[0], value, name)
    if number < arguments[1].least:
      raise ValueError
    return number
  if origin is Literal:
    if not any(type(value) is type(known) and value == known for known in arguments):
      raise ValueError
    return value
  if origin in (Union, types.UnionType):
    if type(None) in arguments and (value is None or value == {}):
      return None
    for option in arguments:
      try:
        return _converted(option, value, name)
      except ValueError:
        continue
    raise ValueError
  if dataclasses.is_dataclass(hint):
    if not isinstance(value, Mapping):
      raise ValueError
    return section(hint, value, name)
  if origin is tuple:
    if not isinstance(value, list | tuple):
      raise ValueError
    repeated = len(arguments) == 2 and arguments[1] is Ellipsis
    if not repeated and len(value) != len(arguments):
      raise ValueError
    kinds = [arguments[0]] * len(value) if repeated else arguments
    return tuple(_converted(kind, x, name) for kind, x in zip(kinds, value, strict=True))
  if hint is bool or isinstance(value, bool):
    if hint is bool and isinstance(value, bool):
      return value
    raise ValueError
  if hint is int and isinstance(value, numbers.Integral):
    return int(value)
  if hint is float and isinstance(value, numbers.Real):
    if not math.isfinite(value):
      raise ValueError
    return float(value)
  if hint is str and isinstance(value, str):
    return value
  if hint is type(None) and value is None:
    return None
  raise ValueError


def _frozen(value: Any) -> Any:
  """Lists, as JSON has them, as tuples."""
  return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def describe(hint: Any) -> str:
  """What may stand where a type hint is, in words."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return f"{describe(arguments[0])} of at least {arguments[1].least:g}"
  if origin is Literal:
    return f"one of {', '.join(map(str, arguments))}"
  if origin in (Union, types.UnionType):
    return " or ".join(describe(option) for option in arguments)
  if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
    return f"a list, each {describe(arguments[0])}"
  if origin is tuple:
    return f"a list of {len(arguments)} ({'; '.join(dict.fromkeys(map(describe, arguments)))})"
  if dataclasses.is_dataclass(hint):
    return f"a section of {', '.join(_settings(hint))}"
  words = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text", type(None): "None"}
  return words.get(hint, "a setting")


def _shown(value: Any) -> str:
  """A value in at most 60 printable characters."""
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."
