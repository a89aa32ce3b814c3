"""The doctor says what is missing and how to get it, hints at idle accelerators, and fails when the machine does."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from shapegan_jax.tools import doctor as module
from shapegan_jax.tools.cli import _run
from shapegan_jax.tools.doctor import EXTRAS, doctor, hints
from shapegan_jax.tools.shared import self_test

ROOT = Path(__file__).parents[2]


def without(monkeypatch, *absent, present=()):
  """Let these modules be missing, and those be there."""
  find = importlib.util.find_spec

  def found(name, *rest):
    return None if name in absent else object() if name in present else find(name, *rest)

  monkeypatch.setattr(importlib.util, "find_spec", found)


def refused(capsys, *arguments) -> tuple[str, str]:
  """(standard output, the one line) of a doctor that finds something wrong."""
  with pytest.raises(SystemExit) as leaving:
    _run(doctor, "doctor", list(arguments))
  said = capsys.readouterr()
  assert leaving.value.code == 1
  assert said.err.startswith("error: ")
  assert said.err.count("\n") == 1
  return said.out, said.err


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
  """Nothing is looked for, or written, in this user's caches."""
  monkeypatch.setenv("SHAPEGAN_CACHE", str(tmp_path / "data"))
  monkeypatch.setattr(module, "try_out", lambda folders: None)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
  yield
  jax.config.update("jax_compilation_cache_dir", before)


def test_it_says_what_is_there(tmp_path, capsys):
  _run(doctor, "doctor", [])
  said = capsys.readouterr().out
  for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
    assert f"{name} {importlib.metadata.version(name)}" in said
  for words in (str(tmp_path / "data"), str(tmp_path / "programs"), "2 x cpu", "cores", "GiB", "shipped models"):
    assert words in said, said


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_named_with_its_command(extra, monkeypatch, capsys):
  everything = [name for modules, _ in EXTRAS.values() for part in modules for name in part.split("|")]
  absent = [name for part in EXTRAS[extra][0] for name in part.split("|")]
  without(monkeypatch, *absent, present=set(everything) - set(absent))
  _run(doctor, "doctor", ["--no-self-test"])
  lines = capsys.readouterr().out.splitlines()
  (told,) = [line for line in lines if f"pip install -e '.[{extra}]'" in line]
  assert "missing" in told
  assert absent[0] in told
  assert sum("present" in line for line in lines) == len(EXTRAS) - 1
  assert sum("pip install" in line for line in lines) == 1


def test_every_extra_of_the_package_is_known():
  (call,) = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"]  # fmt: skip
  (extras,) = [keyword.value for keyword in call.keywords if keyword.arg == "extras_require"]
  assert {key.value for key in extras.keys} - {"test", "dev"} <= set(EXTRAS)


def test_a_missing_core_package_is_an_error_before_jax_starts(monkeypatch, capsys):
  version = importlib.metadata.version

  def found(name):
    if name in ("optax", "clu"):
      raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

  monkeypatch.setattr(importlib.metadata, "version", found)
  out, err = refused(capsys)
  assert "optax, clu" in err
  assert "pip install -e ." in err
  assert "devices" not in out
  assert "extras" in out, "what else is missing is said first"


def test_a_jax_that_does_not_start_is_one_line(monkeypatch, capsys):
  def broken():
    raise RuntimeError("\nUnable to initialize backend 'cuda'\nand much more")

  monkeypatch.setattr(jax, "local_devices", broken)
  _, err = refused(capsys)
  assert "Unable to initialize backend 'cuda'" in err


def test_an_accelerator_that_jax_does_not_use_is_a_hint(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS")
  monkeypatch.setattr(module, "nvidia_gpu", lambda: "an NVIDIA GPU")
  monkeypatch.setattr(module, "tpu", lambda: None)
  without(monkeypatch, "jax_cuda12_plugin", "jax_cuda13_plugin")
  (line,) = hints("cpu")
  assert "pip install -e '.[gpu]'" in line
  assert not list(hints("gpu"))
  without(monkeypatch, present=("jax_cuda13_plugin",))
  (line,) = hints("cpu")
  assert "driver" in line
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  (line,) = hints("cpu")
  assert "JAX_PLATFORMS=cpu" in line
  monkeypatch.setattr(module, "nvidia_gpu", lambda: None)
  assert not list(hints("cpu"))


def test_the_self_test_passes_here(tmp_path, capsys, monkeypatch):
  monkeypatch.undo()
  folders = (tmp_path / "new" / "cache", tmp_path)
  module.try_out(folders)
  said = capsys.readouterr().out
  for words in ("arithmetic", "picture", "training steps", *map(str, folders), "all is well"):
    assert words in said
  assert not folders[0].parent.exists(), "it leaves nothing"


def fault_of(check) -> str:
  with pytest.raises(self_test.Failed) as caught:
    list(self_test.run([], [("first", lambda: None), ("this part", check)]))
  assert str(caught.value).startswith("self-test: this part: ")
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_a_failed_self_test_is_exit_code_1(monkeypatch, capsys, tmp_path):
  monkeypatch.undo()
  monkeypatch.setattr(self_test, "run", lambda folders: self_test_of_a_bad_machine())
  monkeypatch.setenv("SHAPEGAN_CACHE", str(tmp_path))

  def self_test_of_a_bad_machine():
    yield "arithmetic"
    raise self_test.Failed("self-test: arithmetic: the sine is off")

  out, err = refused(capsys)
  assert err == "error: self-test: arithmetic: the sine is off\n"
  assert "all is well" not in out


def test_each_part_sees_its_fault(tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  assert "file" in fault_of(lambda: self_test.writing(tmp_path / "file" / "folder"))
  assert "ZeroDivisionError" in fault_of(lambda: 1 / 0)

  def raised():
    raise RuntimeError("\nXLA: out of memory\nbacktrace")

  assert fault_of(raised).endswith("RuntimeError: XLA: out of memory")
  monkeypatch.setattr(jnp, "sin", lambda x: jnp.cos(x))
  assert "the sine on" in fault_of(self_test.arithmetic)


def test_a_blank_picture_and_steps_that_lead_nowhere_are_seen():
  good = self_test.Tiny().method

  class Wrong:
    """The method with one answer spoilt."""

    stages = good.stages

    def __getattr__(self, name):
      return getattr(good, name)

  class Blank(Wrong):
    def render(self, *args, **settings):
      from shapegan_jax.types import Rendering

      return Rendering(jnp.full((1, 16, 16, 3), 0.5))

  class Still(Wrong):
    def init(self, key):
      return {"weights": jnp.ones(3)}

    def params_of(self, state, ema=True):
      return state

    def update(self, state, *args, **settings):
      return state, {"loss": jnp.float32(0)}

  class Lost(Still):
    def update(self, state, *args, **settings):
      return jax.tree.map(jnp.add, state, state), {"loss": jnp.float32(jnp.nan)}

  for spoilt, part, words in ((Blank(), "picture", "0.5 to 0.5"), (Still(), "training", "not change"),
                              (Lost(), "training", "loss is nan")):  # fmt: skip
    tiny = self_test.Tiny()
    tiny.__dict__["method"] = spoilt
    if part == "picture":
      tiny.__dict__["state"] = None
      spoilt.params_of = lambda state: None
    assert words in fault_of(getattr(tiny, part))
