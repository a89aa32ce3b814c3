"""Settings are checked by value: every dataclass that a config section becomes refuses what may not stand in it."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest

from shapegan_jax import sections
from shapegan_jax.data.sources import DataConfig
from shapegan_jax.errors import UserError
from shapegan_jax.methods.catalog import METHODS, build, check_method, method_class
from shapegan_jax.run_settings import RUN_SECTIONS, check_run

ROOT = Path(__file__).parents[1]
NAMES = [
  path.stem
  for path in sorted((ROOT / "configs").glob("*.py"))
  if hasattr(importlib.import_module(f"configs.{path.stem}"), "get_config")
]


def config_of(name, preset="smoke"):
  return importlib.import_module(f"configs.{name}").get_config(preset).to_dict()


def wrong_values(hint):
  """Values that may not stand where a type hint is: of another type, outside an enumeration or a range, not finite."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return [*wrong_values(arguments[0]), arguments[1].least - 1]
  if origin is Literal:
    return ["fra", 3]
  if origin is tuple:
    return ["1, 2", 7, [*wrong_values(arguments[0])[:1]] * max(1, len(arguments) - (arguments[-1] is Ellipsis))]
  if origin is not None or hint is typing.Any:
    return []  # a union accepts more than one kind
  if dataclasses.is_dataclass(hint):
    return ["big", [1.0]]
  return {bool: [1, "yes"], int: [True, 0.5, "3"], float: [float("nan"), float("inf"), "3", True], str: [3]}[hint]


def schemas():
  """(method, section, dataclass) of all sections that any config's smoke preset names, and of the runners'."""
  for name in NAMES:
    config = config_of(name)
    for section, cls in method_class(config["method"]).sections(config).items():
      yield name, section, sections.chosen(cls, config.get(section), section)
  for section, cls in {**RUN_SECTIONS, "data": DataConfig}.items():
    yield "shadegan", section, cls


CASES = [
  (name, section, setting, value)
  for name, section, cls in schemas()
  for setting, hint in sections.settings_of(cls).items()
  for value in wrong_values(hint)
]


def refuse(config):
  def check():
    check_run(config)
    check_method(config)

  with pytest.raises(UserError) as error:
    check()
  return str(error.value)


def test_there_are_cases_for_every_method_and_most_settings():
  assert {name for name, *_ in CASES} == set(NAMES)
  assert len(CASES) > 500
  assert {method_class(config_of(name)["method"]) for name in NAMES} == {method_class(name) for name in METHODS}


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_value_is_one_line_that_names_the_setting_and_what_may_stand_there(name):
  for case, section, setting, value in CASES:
    if case == name:
      config = config_of(name)
      config[section] = {**(config.get(section) or {}), setting: value}
      message = refuse(config)
      assert message.startswith(f"config.{section}.{setting}"), message
      assert "\n" not in message
      assert " is not " in message or "columns" in message, message


@pytest.mark.parametrize("name", NAMES)
def test_every_section_and_setting_is_read_by_somebody(name):
  """A section or a setting that nobody reads is refused, at every level, with what may have been meant."""
  config = config_of(name)
  check_run(config)
  check_method(config)
  assert "no such section" in refuse({**config, "mappin": {}})
  for section in method_class(config["method"]).sections(config):
    message = refuse({**config, section: {**(config.get(section) or {}), "nonsense": 3}})
    assert message.startswith(f"config.{section}.nonsense: no such setting"), message


def test_a_method_refuses_the_sections_of_another():
  """GOF has no smoothness of its own, pi-GAN neither tracking nor a surface: a config that sets them is in error."""
  for name, section in (("gof", "smoothness"), ("pigan", "tracking"), ("pigan", "surface"), ("graf", "mapping")):
    assert f"config.{section}: no such section" in refuse({**config_of(name), section: {}})


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    ("shadegan", {"discriminator.pose": False}, "config.objectives.pose: 15, but the discriminator has no pose head"),
    ("shadegan", {"objectives.latent": 1.0}, "needs config.discriminator.latent_dim=64"),
    ("pigan", {"stages.resolution": (24,)}, "config.stages.resolution: 24 is no size that the discriminator reads"),
    ("pigan", {"stages.resolution": (512,)}, "or raise config.discriminator.max_resolution"),
    ("pigan", {"stages.samples": (4, 8)}, "columns must be equally long.*samples 2"),
    ("pigan", {"stages.start": (5,)}, "must begin at 0"),
    ("pigan", {"stages.micro_batches": 3}, "does not divide a batch"),
    ("pigan", {"stages.topk_group": (3,)}, "does not divide a batch"),
    ("pigan", {"objectives.loss": "relativistic"}, "objectives.topk_share"),
    ("pigan", {"objectives.loss": "hinge"}, "'hinge' is not one of logistic, relativistic"),
    ("pigan", {"cameras.near": 2.0}, "must be ascending"),
    ("pigan", {"field.kind": "cube"}, "config.field.kind: 'cube' is not one of siren, nerf"),
    ("stylegan2", {"synthesis.channels": (8, 8)}, "generator, discriminator and stages disagree"),
    ("pigan", {"method": "pigran"}, "no method is called 'pigran'"),
    ("pigan", {"method": None}, "no method is called None"),
    ("pigan", {"rendering": 3}, "config.rendering: 3 is no section"),
  ],
)
def test_settings_that_contradict_each_other_are_one_line(name, changes, message):
  config = config_of(name)
  for path, value in changes.items():
    *parents, last = path.split(".")
    node = config
    for parent in parents:
      node = node[parent]
    node[last] = value
  with pytest.raises(UserError, match=message):
    check_method(config)
  with pytest.raises(UserError, match=message):
    build(config)


@dataclasses.dataclass(frozen=True)
class Inner:
  radius: float = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
  rates: tuple[float, ...] = ()
  range: tuple[int, int] = (0, 1)
  inner: Inner | None = None
  name: str | None = None


def test_a_value_is_read_as_its_hint_says():
  read = sections.section(Settings, {"rates": [1, 2.5], "range": [3, 4], "inner": {"radius": 2}, "name": None}, "here")
  assert read == Settings((1.0, 2.5), (3, 4), Inner(2.0), None)
  assert isinstance(read.rates[0], float)
  assert sections.section(Settings, {"inner": {}}, "here").inner is None, "an empty section is none"
  with pytest.raises(UserError, match=r"config.here.inner.radius: 'x' is not a finite number"):
    sections.section(Settings, {"inner": {"radius": "x"}}, "here")
  with pytest.raises(UserError, match=r"config.here.rage: no such setting; did you mean range\?"):
    sections.section(Settings, {"rage": 1}, "here")


def test_older_files_are_read_in_todays_names():
  old = {"method": "stylegan2", "critic": {"group": 4, "exported": False}, "stages": {"parts": 2, "start": [0]}}
  new = sections.upgraded(old, 0)
  assert new["discriminator"] == {"group": 4}
  assert new["export"] == {"discriminator": False}
  assert new["stages"] == {"micro_batches": 2, "start": [0]}
  assert old["critic"] == {"group": 4, "exported": False}, "the argument is left alone"
  assert sections.upgraded(new, sections.FORMAT) == new
  with pytest.raises(UserError, match=r"config.critic: is called config.discriminator now"):
    check_method({**config_of("pigan"), "critic": {}})


@pytest.mark.parametrize(
  ("written", "message"), [(99, "newer version"), ("1", "not a whole number"), (-1, "not a whole")]
)
def test_a_file_of_another_format_is_refused(written, message):
  with pytest.raises(UserError, match=message):
    sections.check_format(written, "model.safetensors")
  assert sections.check_format(0, "x") == 0
  assert sections.check_format(sections.FORMAT, "x") == sections.FORMAT
