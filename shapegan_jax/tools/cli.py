"""`shapegan`: commands for trained models, one file each. A mistake is one line on stderr and exit code 2.

Nothing heavy is imported before a command is known and its arguments are right.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from shapegan_jax.errors import UserError

Command = Callable[..., None]


COMMANDS: dict[str, tuple[str, str]] = {
  "render": (
    "shapegan_jax.tools.render:render",
    "Draw a trained generator: sheets, single pictures, orbits and interpolations.",
  ),
  "relight": ("shapegan_jax.tools.relight:relight", "Draw shapes under other lights, or under the light of a picture."),
  "mesh": (
    "shapegan_jax.tools.mesh:mesh",
    "Write shapes as closed meshes (GLB, PLY, OBJ, STL) with colours, normals and a preview picture.",
  ),
  "invert": ("shapegan_jax.tools.invert:invert", "Find the shape, the pose and the light of photographs."),
  "lift": (
    "shapegan_jax.tools.lift:lift",
    "Find the shape behind pictures with a StyleGAN2, by GAN2Shape: mesh, relighting, other views.",
  ),
  "train-encoder": (
    "shapegan_jax.tools.train_encoder:train_encoder",
    "Train the network that gives the search of invert a better start.",
  ),
  "view": (
    "shapegan_jax.tools.view:view",
    "Look at a model in the browser: turn it, walk through its shapes, move the light.",
  ),
  "plan": (
    "shapegan_jax.tools.plan:plan",
    "Say what a training would take before it begins: arithmetic, memory, time, and what fits.",
  ),
  "doctor": ("shapegan_jax.tools.doctor:doctor", "Say what this installation has and lacks, and try it out."),
  "convert": (
    "shapegan_jax.tools.convert:convert",
    "Turn a published PyTorch checkpoint into a file that shapegan_jax.load reads.",
  ),
}
"""Name -> ("module:function", one line of help). A command's module imports jax inside its function."""


def command(name: str) -> Command:
  """The function of a command, imported now."""
  module, _, function = COMMANDS[name][0].partition(":")
  return getattr(importlib.import_module(module), function)


def main(argv: list[str] | None = None) -> None:
  """Run the command that `argv` (None: the command line) names."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ("-h", "--help"):
    print(overview())
    return
  name, *rest = argv
  if name not in COMMANDS:
    fail(f"{name!r}: no such command; the commands are {', '.join(COMMANDS)} (shapegan COMMAND --help explains one)")
  if name == "plan":  # the settings of a config are changed as in training; tyro cannot know them
    rest = [re.sub(r"^--config\.", "--change=", argument) for argument in rest]
  try:
    _run(command(name), name, rest)
  except UserError as error:
    fail(str(error))
  except KeyboardInterrupt:
    sys.exit(130)


def overview() -> str:
  """The commands and what they are for."""
  lines = [f"  {name:<14} {purpose}" for name, (_, purpose) in COMMANDS.items()]
  return "\n".join(["usage: shapegan COMMAND [--help] [--name=value ...]", "", "commands:", *lines])


def fail(message: str) -> None:
  """One line on stderr, exit code 2."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.exit(2)


def _run(function: Command, name: str, argv: list[str]) -> None:
  """Parse the arguments and run the command. tyro reports a mistake in a box of several lines; here it is one line."""
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      call = tyro.cli(_deferred(function), prog=f"shapegan {name}", args=argv)
  except SystemExit as leaving:
    if leaving.code in (0, None):
      raise
    raise UserError(f"{_in_one_line(said.getvalue())}; see shapegan {name} --help") from None
  call()


def _deferred(function: Command) -> Callable[..., Callable[[], None]]:
  """`function` with its signature and documentation, but returning the call instead of making it."""

  @functools.wraps(function)
  def prepare(**arguments: Any) -> Callable[[], None]:
    return lambda: function(**arguments)

  return prepare


def _in_one_line(box: str) -> str:
  lines = [re.sub(r"[─-╿]", " ", line).strip() for line in box.split("For full helptext")[0].splitlines()[1:]]
  said = re.sub(r"\s+", " ", " ".join(lines)).strip()
  # For a value of the wrong type tyro lists every attempt to convert it, and then the help of the option.
  said = re.split(r" Got errors:| Argument helptext:", said)[0].strip().rstrip(".")
  return said or "the arguments were not understood"
