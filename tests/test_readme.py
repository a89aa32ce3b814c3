"""What the README says to type is typed here: its commands with the preset `smoke` and a few steps, then its Python.

Every command runs in the README's order in one new directory, as a reader would, so each configuration is compiled
once and later commands go on from earlier ones. Commands that become equal by this are run once.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from compiler_flags import HURRY
from PIL import Image

from shapegan_jax.model import shipped_models
from shapegan_jax.tools import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Only how much is shown and measured, never what is trained.
LITTLE = (
  "--config.log_every=1",
  "--config.preview.count=1",
  "--config.preview.resolution=8",
  "--config.evaluation.samples=2",
  "--config.evaluation.final_samples=2",
  "--config.evaluation.images=0",
  "--config.evaluation.final_images=4",
  "--config.evaluation.views=2",
  "--config.evaluation.resolution=8",
)


def blocks(*languages: str) -> list[str]:
  return [text for language, text in re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S) if language in languages]


def commands() -> list[list[str]]:
  """The words after `python -m shapegan_jax.main` of every such command in a code block."""
  lines = "\n".join(blocks("bash", "sh", "console")).replace("\\\n", " ").splitlines()
  parts = [part.strip().removeprefix("$ ") for line in lines for part in line.split("&&")]
  found = [shlex.split(part, comments=True) for part in parts if "shapegan_jax.main" in part]
  assert all(words[:3] == ["python", "-m", "shapegan_jax.main"] for words in found), found
  return [words[3:] for words in found]


def tool_commands() -> list[list[str]]:
  """The words after `shapegan` of every such command in a code block."""
  lines = "\n".join(blocks("bash", "sh", "console")).replace("\\\n", " ").splitlines()
  return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("shapegan ")]


def made_small(words: list[str], steps: int) -> list[str]:
  """The same command with the preset `smoke`, `steps` steps and little to show."""
  words = [word for word in words if not word.startswith("--config.num_steps=")]
  words = [re.sub(r"^(--config=configs/\w+\.py)(:\w+)?$", r"\1:smoke", word) for word in words]
  return [*words, f"--config.num_steps={steps}", *LITTLE]


def python(*arguments: str, cwd: Path) -> str:
  """Output of a Python process in `cwd`, with caches of its own and a compiler in a hurry."""
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": HURRY,
    "JAX_COMPILATION_CACHE_DIR": str(cwd / "compiled"),
    "SHAPEGAN_CACHE": str(cwd / "cache"),
  }
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=cwd,
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}"
  return done.stdout


@pytest.fixture(scope="session")
def reader(tmp_path_factory) -> Path:
  """A directory in which every command of the README was run, in order."""
  place = tmp_path_factory.mktemp("reader")
  (place / "configs").symlink_to(ROOT / "configs")
  for word in {word for words in commands() for word in words if word.startswith("--config.data.path=")}:
    pictures = place / word.partition("=")[2]
    pictures.mkdir(parents=True)
    for i in range(8):
      pixels = np.random.default_rng(i).integers(0, 255, (40, 32, 3), np.uint8)
      Image.fromarray(pixels).save(pictures / f"{i}.png")
  steps_of, seen = {}, set()
  for words in commands():
    workdir = next(word for word in words if word.startswith("--workdir="))
    evaluates = "--mode=eval" in words
    goes_on = workdir in steps_of
    steps = steps_of.get(workdir, 1) + (not evaluates)
    alike = tuple(word for word in made_small(words, 0) if word != workdir)
    if goes_on or evaluates or alike not in seen:
      output = python("-m", "shapegan_jax.main", *made_small(words, steps), cwd=place)
      assert evaluates or f"step {steps}" in output, output
      steps_of[workdir] = steps
      seen.add(alike)
  return place


def test_the_two_set_up_lines_are_the_first_commands():
  lines = [line for block in blocks("bash") for line in block.splitlines()]
  assert lines[:2] == [
    "pip install -e . && python -m shapegan_jax.main --config=configs/shadegan.py --workdir=runs/heads",
    "pip install -e '.[test]' && pytest",
  ]


def test_every_named_file_and_preset_exists():
  for path in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"<img[^>]+src=\"(?!http)([^\"]+)\"", README):
    assert (ROOT / path).exists(), f"the README links to {path}"
  for words in commands():
    name, preset = re.fullmatch(r"--config=configs/(\w+)\.py(?::(\w+))?", words[0]).groups()
    assert (ROOT / "configs" / f"{name}.py").exists()
    assert preset is None or f"def {preset}(" in (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")


def test_every_command_runs_and_leaves_what_the_readme_says(reader):
  workdirs = {path.parent for path in reader.glob("runs/*/config.json")}
  assert reader / "runs" / "heads" in workdirs
  for workdir in workdirs:
    for wanted in ("previews/*.png", "metrics.jsonl", "*events.out.tfevents*", "checkpoints/[0-9]*"):
      assert any(workdir.rglob(wanted)), f"{workdir.name}: no {wanted}"


@pytest.mark.parametrize("words", tool_commands(), ids=" ".join)
def test_every_tool_command_is_understood(words):
  # What each does has tests of its own in tests/tools; here: it exists, and so do its options.
  name, *arguments = words
  assert name in cli.COMMANDS
  assert callable(tyro.cli(cli._deferred(cli.command(name)), args=arguments))
  models = [word.partition("=")[2] for word in arguments if word.startswith("--model=")]
  trained = {word.partition("=")[2] for words in commands() for word in words if word.startswith("--workdir=")}
  assert set(models) <= set(shipped_models()) | trained


def test_every_command_is_shown():
  assert {words[0] for words in tool_commands()} == set(cli.COMMANDS)


def test_every_python_snippet_runs(reader):
  snippets = blocks("python")
  assert any("shapegan_jax.load(" in snippet for snippet in snippets)
  python("-W", "error::DeprecationWarning:__main__", "-c", "\n".join(snippets), cwd=reader)
