"""Commands run within the test's process, and the one line that answers a mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shapegan_jax.tools import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
  """(exit code, standard output, standard error) of `shapegan ARGUMENTS`."""
  code = 0
  try:
    cli.main([str(argument) for argument in arguments])
  except SystemExit as leaving:
    code = leaving.code
  said = capsys.readouterr()
  return code, said.out, said.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
  """The one line on standard error; nothing is said on standard output and the exit code is 2."""
  code, out, err = run(capsys, *arguments)
  assert (code, out) == (2, ""), (code, out, err)
  assert err.startswith("error: "), err
  assert err.endswith("\n"), err
  assert err[:-1].isprintable(), err
  assert not set(err) & set("─│╭╮╰╯"), err
  return err[:-1]


def on_models(
  command: Callable[..., None], name: str, models: dict[str, Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
  """Calls a command on models that are compiled already: f(*arguments, model="shadegan")."""
  monkeypatch.setattr("shapegan_jax.model.load", lambda model: models[model])
  return lambda *arguments, model="shadegan": cli._run(
    command, name, [f"--model={model}", f"--resolution={size}", *arguments]
  )
