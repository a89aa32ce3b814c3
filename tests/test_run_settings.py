"""What the loop reads of a config is checked by value, before anything is done."""

import dataclasses
import importlib

import pytest
from toy_method import ToyMethod, ToySource, toy_config

from configs import common
from shapegan_jax.checkpoints import import_safetensors
from shapegan_jax.errors import UserError
from shapegan_jax.model import shipped_models
from shapegan_jax.run_settings import RUN_SECTIONS, RunSettings, check_run
from shapegan_jax.train import train


def test_what_configs_have_is_what_is_read():
  loop = common.loop().to_dict()
  names = {name: {field.name for field in dataclasses.fields(cls)} for name, cls in RUN_SECTIONS.items()}
  names["evaluation"].remove("columns")  # of a picture that is drawn once
  assert {name: set(loop[name]) for name in RUN_SECTIONS} == names
  read = check_run(loop)
  for name in RUN_SECTIONS:
    values = dataclasses.asdict(getattr(read, name))
    assert {key: values[key] for key in loop[name]} == loop[name]
  assert (read.seed, read.num_steps, read.log_every) == (0, 1000, 10)
  assert set(loop) == {field.name for field in dataclasses.fields(RunSettings)}


@pytest.mark.parametrize("name", ["pigan", "graf", "gof", "gof_shaded", "shadegan", "stylegan2", "gan2shape"])
def test_every_method_has_a_config_that_is_read(name):
  read = check_run(importlib.import_module(f"configs.{name}").get_config().to_dict())
  assert read.checkpoint.every > 0


def test_configs_of_shipped_models_are_read():
  for path in shipped_models().values():
    _, metadata = import_safetensors(path)
    assert check_run(metadata["config"]).preview.count == 8


def test_a_config_that_is_silent_shows_saves_and_measures_at_the_end_alone():
  read = check_run({"method": "toy", "data": {"name": "none"}, "field": {"depth": 3}})
  assert (read.preview.every, read.preview.first, read.checkpoint.every, read.evaluation.every) == (0, 0, 0, 0)
  assert (read.evaluation.images, read.evaluation.final_images, read.evaluation.views) == (0, 0, 0)


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"seed": -1}, "config.seed: -1 is not a whole number of at least 0"),
    ({"num_steps": 2.5}, "config.num_steps: 2.5 is not a whole number of at least 0"),
    ({"log_every": 0}, "config.log_every: 0 is not a whole number of at least 1"),
    ({"log_every": True}, "config.log_every: True is not"),
    ({"preview": {"every": -1}}, "config.preview.every: -1 is not a whole number of at least 0"),
    ({"preview": {"sise": 3}}, "config.preview.sise: no such setting"),
    ({"checkpoint": {"keep": 0}}, "config.checkpoint.keep: 0 is not a whole number of at least 1"),
    ({"checkpoint": {"asynchronous": "yes"}}, "config.checkpoint.asynchronous: 'yes' is not True or False"),
    ({"evaluation": {"features": "resnet"}}, "'resnet' is not one of random, alexnet, vgg16, inception"),
    ({"evaluation": {"measures": "health"}}, "config.evaluation.measures: 'health' is not a list"),
    ({"evaluation": {"resolution": 0}}, "config.evaluation.resolution: 0 is not a whole number of at least 1 or None"),
    ({"data": {"name": "folder", "crop": 0}}, "config.data.crop: 0 is not a whole number of at least 1"),
  ],
)
def test_a_wrong_value_is_one_line_that_says_what_may_stand_there(change, reason, tmp_path):
  config = {**toy_config(3), "data": {"name": "none"}, **change}
  with pytest.raises(UserError) as caught:
    check_run(config)
  assert reason in str(caught.value)
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match="config"):
    train(config, tmp_path / "run", method=ToyMethod())
  assert not (tmp_path / "run").exists()


def test_data_of_ones_own_may_be_called_anything(tmp_path):
  config = toy_config(1, data={"name": "mine", "flip": False, "made_by": "me"})
  assert check_run(config, data=False).num_steps == 1
  assert int(train(config, tmp_path, method=ToyMethod(), source=ToySource()).step) == 1
