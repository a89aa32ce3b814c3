"""A file of settings and what a command line changes in it, for commands whose other arguments absl does not read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from shapegan_jax.errors import UserError

MISTAKES = (UserError, flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError)
"""What a config file, its preset or a changed setting may raise while it is read."""


def read_settings(config: str, changes: Sequence[str] = ()) -> dict[str, Any]:
  """The plain nested settings of FILE or FILE:PRESET, with `changes` as `--config.NAME=VALUE` would make them.

  Args:
    config: FILE or FILE:PRESET.
    changes: NAME=VALUE each.

  Raises:
    UserError: no such file, preset or setting, or a value of another type.
  """
  # Configs import one another by `configs.NAME`, as they can where `python -m` was started.
  if not {"", os.getcwd()} & set(sys.path):
    sys.path.insert(0, os.getcwd())
  argv = ["", f"--config={config}", *(f"--config.{change}" for change in changes)]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", None, "Settings.", flag_values=values, lock_config=True, sys_argv=argv
  )
  try:
    values(argv)
    return holder.value.to_dict()
  except MISTAKES as error:
    raise UserError(in_one_line(error)) from error


def in_one_line(error: Exception) -> str:
  """The message of one of `MISTAKES` in one line. A config's own error arrives as a traceback, whose last line is the
  message; a typo as a twice quoted sentence."""
  text = str(error.args[0] if error.args else error).replace("\\n", "; ")
  words = re.sub(r"^\w*Error: ", "", [line for line in text.splitlines() if line.strip()][-1].strip())
  typo = "--config has no such setting: " if isinstance(error, AttributeError) else ""
  return typo + (re.sub(r"[\\'\"]+", "", words) if typo else words)
