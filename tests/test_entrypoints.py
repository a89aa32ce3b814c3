"""The ways in: what they cost before any work is done, and how they answer a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
  """Runs code in a new interpreter, as a user would: none of the tests' jax settings, no standard input."""
  environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
  return subprocess.run(
    [sys.executable, "-c", code, *args],
    cwd=ROOT,
    env=environment | {"JAX_PLATFORMS": "cpu"} | variables,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )


RUN_MAIN = """
import atexit, json, os, runpy, sys
heavy = ("jax", "flax", "tensorflow_datasets")
atexit.register(lambda: print("\\nLOADED " + json.dumps([name for name in heavy if name in sys.modules])))
sys.argv[0] = "main.py"
runpy.run_module("shapegan_jax.main", run_name="__main__", alter_sys=True)
"""


def test_help_answers_without_jax():
  answer = python(RUN_MAIN, "--help")
  assert "Traceback" not in answer.stderr, answer.stderr
  for flag in ("--config", "--workdir", "--mode"):
    assert flag in answer.stdout + answer.stderr
  assert json.loads(answer.stdout.rsplit("LOADED ", 1)[1]) == []


def test_importing_the_package_costs_nothing_and_its_names_come_on_demand():
  # The bound is 1.5x `import jax`. Not importing jax at all (nor anything as large) holds it without a stopwatch.
  answer = python(
    "import sys; before = set(sys.modules); import shapegan_jax; new = set(sys.modules) - before\n"
    "assert not {'jax', 'flax', 'numpy', 'tensorflow_datasets', 'orbax'} & new, new\n"
    "assert len(new) < 40, sorted(new)\n"
    "assert {'load', 'Model'} <= set(dir(shapegan_jax)), dir(shapegan_jax)\n"
    "assert callable(shapegan_jax.load) and isinstance(shapegan_jax.Model, type)\n"
  )
  assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("--workdir={tmp}/run",), ("config",)),
    (("--config=configs/shadegan.py:smoke",), ("workdir",)),
    (("--config=configs/shadegan.py:no_such_preset", "--workdir={tmp}/run"), ("no_such_preset", "smoke")),
    (("--config=configs/shadegan.py:smoke", "--workdir={tmp}/run", "--mode=dance"), ("mode", "eval")),
    (("--config=configs/shadegan.py:smoke", "--workdir={tmp}/run", "--config.num_stepz=3"), ("num_stepz",)),
    (("--config=configs/shadegan.py:smoke", "--workdir={tmp}/empty", "--mode=eval"), ("empty",)),
  ],
)
def test_a_mistake_is_answered_by_name_and_without_a_traceback(arguments, words, tmp_path):
  (tmp_path / "empty").mkdir()
  answer = python(RUN_MAIN, *(argument.format(tmp=tmp_path) for argument in arguments))
  said = answer.stderr + answer.stdout.rpartition("\nLOADED")[0]
  assert answer.returncode != 0
  assert all(word in said for word in words), said
  assert "Traceback" not in said, said


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("rendering.last=fra", "config.rendering.last: 'fra' is not one of far, published"),
    ("discriminator.pose=False", "config.objectives.pose: 15, but the discriminator has no pose head"),
    ("stages.samples=(4,8)", "config.stages: columns must be equally long"),
    ("optimizers.clip=nan", "config.optimizers.clip: nan is not a finite number"),
    ("evaluation.measures=('beauty',)", "'beauty'"),
  ],
)
def test_a_wrong_value_ends_in_one_line_before_anything_is_prepared(change, message, tmp_path):
  # Of every section and setting: tests/test_sections.py.
  arguments = ("--config=configs/shadegan.py:smoke", f"--workdir={tmp_path / 'run'}", f"--config.{change}")
  answer = python(RUN_MAIN, *arguments, SHAPEGAN_CACHE=str(tmp_path / "cache"))
  assert answer.returncode == 2, answer.stderr
  assert answer.stderr.startswith("error: ")
  assert answer.stderr.count("\n") == 1
  assert message in answer.stderr
  assert not list(tmp_path.iterdir()), "neither data nor a workdir was made"


def test_every_command_of_the_table_exists_and_costs_no_jax():
  answer = python(
    "import sys\nfrom shapegan_jax.tools import cli\n"
    "assert all(callable(cli.command(name)) for name in cli.COMMANDS)\nassert 'jax' not in sys.modules"
  )
  assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(("step", "code"), [(3, 75), (10, 0)])
def test_a_run_that_was_stopped_is_told_from_one_that_is_done(step, code, tmp_path):
  # Whatever started it (launch/) has to know whether to start it again.
  stand_in = f"types.SimpleNamespace(train=lambda *unused: types.SimpleNamespace(step={step}))"
  answer = python(
    f"import sys, types; sys.modules['shapegan_jax.train'] = {stand_in}\n{RUN_MAIN}",
    "--config=configs/shadegan.py:smoke",
    "--config.num_steps=10",
    f"--workdir={tmp_path}",
  )
  assert answer.returncode == code, answer.stderr
