"""`shapegan convert` writes a model that loads and renders, or one line and nothing else, whatever the file holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import refused, run
from convert.torch_writer import (
  Call,
  Global,
  Raw,
  View,
  average,
  module,
  nerf_tensors,
  siren_tensors,
  state_dict,
  write,
)

import shapegan_jax
from shapegan_jax.checkpoints import import_safetensors
from shapegan_jax.tools.cli import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tensors(rng):
  return siren_tensors(rng)


def test_a_converted_file_loads_and_renders(tensors, tmp_path, capsys):
  larger = [np.float32(1.01) * tensor for tensor in tensors.values()]
  given = write(tmp_path / "generator.pth", module(tensors, step=1234))
  ema = write(tmp_path / "ema.pth", average(larger), form="stream")
  out = tmp_path / "new" / "model.safetensors"
  code, said, _ = run(capsys, "convert", "--method=pigan", f"--input={given}", f"--ema={ema}", f"--output={out}")
  assert code == 0
  count = sum(tensor.size for tensor in tensors.values())
  for words in (str(out), f"{count:,} parameters", "1,234 updates", "2 layers of width 4", "shapegan_jax.load"):
    assert words in said, said
  assert [path.name for path in out.parent.iterdir()] == ["model.safetensors"]
  model = shapegan_jax.load(out)
  assert model.step == 1234
  first = model.params["mapping"]["hidden_0"]["kernel"]
  np.testing.assert_array_equal(first, larger[10].T)
  picture = model.render(resolution=4)
  assert picture.rgb.shape == (1, 4, 4, 3)
  assert np.isfinite(picture.rgb).all()


def test_every_method_converts_and_an_output_is_replaced(rng, tmp_path, capsys):
  out = tmp_path / "x.safetensors"
  shaded = siren_tensors(rng, extra=4, surface=(32, 1))
  for method, value, words in (
    ("gof", state_dict(siren_tensors(rng)), "gof"),
    ("shadegan", average([np.zeros(3, np.float32), *shaded.values()], updates=0), "note: the first averaged tensor"),
    ("pigan", average(list(siren_tensors(rng).values())), "7 updates"),
    ("graf", {"generator_test": state_dict(nerf_tensors(rng)), "it": 4321}, "4,321 updates"),
  ):
    given = write(tmp_path / "given.pth", value)
    code, said, err = run(capsys, "convert", f"--method={method}", f"--input={given}", f"--output={out}")
    assert code == 0, err
    assert words in said
    params, metadata = import_safetensors(out)
    assert metadata["config"]["method"] == method
    assert ("surface" in params) == (method == "shadegan")
  assert shapegan_jax.load(out).resolution == 64
  assert sorted(path.name for path in tmp_path.iterdir()) == ["given.pth", "x.safetensors"]


def test_published_weights_answer_as_published(tmp_path, capsys):
  """From a file in torch's format to `Model.query`, against what the authors' code answered."""
  goldens = ROOT / "tests" / "goldens"
  with np.load(goldens / "pigan_hidden32.npz") as golden, np.load(goldens / "mapping_hidden32.npz") as mapping:
    ours = {key: golden[key] for key in golden.files} | {key: mapping[key] for key in mapping.files}
  from shapegan_jax.convert import pigan_family

  slots = pigan_family.generator_slots(pigan_family.Sizes(32, 8, 256, 256, 3, 35))
  tensors = {s.name: ours[s.path].T.copy() if s.kind == "linear" else ours[s.path] for s in slots}
  given, out = write(tmp_path / "generator.pth", state_dict(tensors)), tmp_path / "x.safetensors"
  code, _, err = run(capsys, "convert", "--method=pigan", f"--input={given}", f"--output={out}")
  assert code == 0, err
  latents, points, viewdirs = (jnp.asarray(ours[f"expected/{name}"]) for name in ("z", "points", "directions"))
  found = shapegan_jax.load(out).query(latents, points, None, viewdirs)
  for name, array in (("sigma", found.raw), ("rgb", found.color)):
    expected = ours[f"expected/{name}_points"]
    np.testing.assert_allclose(array, expected.reshape(array.shape), atol=2e-4 * np.abs(expected).max())


def test_mistakes_are_answered_in_one_line(tensors, tmp_path, capsys):
  given = write(tmp_path / "given.pth", state_dict(tensors))
  (tmp_path / "folder.safetensors").mkdir()
  (tmp_path / "file").touch()
  before = sorted(tmp_path.rglob("*"))
  method, source, out = "--method=pigan", f"--input={given}", f"--output={tmp_path / 'x.safetensors'}"
  for arguments, words in (
    (("dance",), "no such command"),
    (("convert",), "--method"),
    (("convert", method, source), "--output"),
    (("convert", "--method=dance", source, out), "dance"),
    (("convert", method, source, out, "--speed=3"), "--speed=3"),
    (("convert", method, source, out, "--dataset=mars"), "mars"),
    (("convert", method, source, out, "--dataset=cub"), "GRAF"),
    (("convert", "--method=gof", source, out, "--dataset=carla"), "no gof model"),
    (("convert", "--method=graf", source, out), "--method=pigan, gof or shadegan"),
    (("convert", "--method=graf", source, out, f"--ema={given}"), "--ema"),
    (("convert", "--method=graf", source, out, "--dataset=bfm"), "bfm"),
    (("convert", "--method=shadegan", source, out), "--method=pigan or gof"),
    (("convert", method, f"--input={tmp_path / 'absent.pth'}", out), "no such file"),
    (("convert", method, f"--input={tmp_path}", out), "folder"),
    (("convert", method, source, out, f"--ema={tmp_path / 'absent.pth'}"), "absent.pth: no such file"),
    (("convert", method, source, f"--output={tmp_path / 'x.pth'}"), "must end in .safetensors"),
    (("convert", method, source, f"--output={tmp_path / 'folder.safetensors'}"), "is a folder"),
    (("convert", method, source, f"--output={tmp_path / 'file' / 'x.safetensors'}"), "cannot be written"),
    (("convert", method, source, f"--output={tmp_path / ('x' * 300)}.safetensors"), "cannot be written"),
  ):
    assert words in refused(capsys, *arguments), arguments
    assert sorted(tmp_path.rglob("*")) == before, arguments


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tensors, tmp_path, capsys, monkeypatch):
  given, out = write(tmp_path / "given.pth", state_dict(tensors)), tmp_path / "x.safetensors"
  out.write_text("old")

  write_whole = Path.write_bytes

  def write_half(path, content):
    write_whole(path, content[: len(content) // 2])
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(Path, "write_bytes", write_half)
  said = refused(capsys, "convert", "--method=pigan", f"--input={given}", f"--output={out}")
  assert "No space left on device" in said
  assert out.read_text() == "old"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["given.pth", "x.safetensors"]


def mutations(rng: np.random.Generator, sources: list[bytes], canary: Path) -> list[bytes]:
  """200 files: flipped bits, cuts, overwritten and inserted stretches, and hostile or absurd programs."""
  found = []
  for index in range(160):
    content = bytearray(sources[index % len(sources)])
    position = int(rng.integers(len(content)))
    kind = index // len(sources) % 5
    if kind == 0:
      content[position] ^= 1 << int(rng.integers(8))
    elif kind == 1:
      del content[position:]
    elif kind == 2:
      content[position : position + 8] = rng.bytes(8)
    elif kind == 3:
      content[position:position] = rng.bytes(int(rng.integers(1, 40)))
    else:  # in the pickle, where an instruction may become another
      content[int(rng.integers(60, 600))] ^= 1 << int(rng.integers(8))
    found.append(bytes(content))
  command = f"touch {canary}"
  programs = [
    Call(Global("os", "system"), (command,)),
    Call(Global("builtins", "eval"), (f"open({str(canary)!r}, 'w')",)),
    Call(Global("siren.siren", "S"), state=Call(Global("posix", "system"), (command,)), new=True),
    Call(Global("torch._utils", "_rebuild_parameter"), (Call(Global("subprocess", "call"), (["touch"],)), True)),
    View(np.zeros(4, np.float32), 0, (2**40, 2**40), (0, 0)),
    View(np.zeros(4, np.float32), 0, (4,), (1,), count=2**62),
    Raw(b")r\xff\xff\xff\x7f"),
    Raw(b")" + b"\x85" * 100_000),
    Raw(b"}" + b")" + b"\x85" * 100_000 + b"Ns"),
    Raw(b"X\xff\xff\xff\x7f"),
  ]
  for program in programs:
    for value in (program, state_dict({"siren.network.0.layer.weight": program})):
      for form in ("zip", "stream"):
        path = write(canary.parent / "program", value, form=form)
        found.append(path.read_bytes())
        path.unlink()
  return found


CONVERT_ALL = """
import contextlib, io, json, pathlib, resource, sys
from shapegan_jax.checkpoints import import_safetensors
from shapegan_jax.tools.cli import main
folder = pathlib.Path(sys.argv[1])
out = folder / "out" / "x.safetensors"

def convert(path):
  said, code = io.StringIO(), 0
  try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      main(["convert", "--method=pigan", f"--input={path}", f"--output={out}"])
  except SystemExit as leaving:
    code = leaving.code
  written = sorted(p.name for p in out.parent.iterdir())
  finite = code or all(abs(x[name]).max() < float("inf") for x in [flat(import_safetensors(out)[0])] for name in x)
  out.unlink(missing_ok=True)
  return path.name, code, said.getvalue(), written, bool(finite), (folder / "canary").exists()

def flat(tree, prefix=""):
  if not isinstance(tree, dict):
    return {prefix: tree}
  return {name: leaf for key, child in tree.items() for name, leaf in flat(child, f"{prefix}/{key}").items()}

out.parent.mkdir()
convert(folder / "good")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = [convert(path) for path in sorted((folder / "mutated").iterdir())]
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, answers]))
"""


def test_mutated_files_run_nothing_and_leave_nothing(rng, tensors, tmp_path):
  """In a process of its own, at full speed and without the tests' shape checks."""
  sources = []
  for value in (state_dict(tensors), module(tensors), average(list(tensors.values()))):
    sources += [write(tmp_path / "good", value, form=form).read_bytes() for form in ("zip", "stream")]
  files = mutations(rng, sources, tmp_path / "canary")
  assert len(files) == 200
  (tmp_path / "mutated").mkdir()
  for index, content in enumerate(files):
    (tmp_path / "mutated" / f"{index:03}").write_bytes(content)
  answer = python("-c", CONVERT_ALL, str(tmp_path))
  assert answer.returncode == 0, answer.stderr
  kilobytes, answers = json.loads(answer.stdout)
  assert kilobytes < 64 << 10, "memory does not follow what a file claims"
  assert len(answers) == 200
  for name, code, said, written, finite, sang in answers:
    assert not sang, name
    if code == 0:
      # What no checksum, size, name or shape could tell.
      assert written == ["x.safetensors"], name
      assert finite, name
    else:
      assert (code, written) == (2, []), (name, said)
      assert said.startswith("error: "), (name, said)
      assert said[:-1].isprintable(), (name, said)
      assert said.endswith("\n"), (name, said)
  read = sum(code == 0 for _, code, *_ in answers)
  assert 0 < read < 60, "flipped numbers go unseen in the old format, and hardly anything else"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
  environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=environment | {"JAX_PLATFORMS": "cpu"},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )


RUN = """
import atexit, json, sys
heavy = ("jax", "flax", "torch", "orbax")
atexit.register(lambda: print("\\nLOADED " + json.dumps([name for name in heavy if name in sys.modules])))
from shapegan_jax.tools.cli import main
main(sys.argv[1:])
"""


def test_help_and_refusals_come_without_jax(tmp_path):
  bad = tmp_path / "bad.pth"
  bad.write_bytes(b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR.")
  for arguments, words in (
    (("--help",), tuple(COMMANDS)),
    (("convert", "--help"), ("--method", "--ema", "--dataset", "executed", "pigan")),
    (("convert", "--method=gof", f"--input={bad}", f"--output={tmp_path / 'x.safetensors'}"), ("posix.system",)),
  ):
    answer = python("-c", RUN, *arguments)
    said, _, loaded = answer.stdout.rpartition("LOADED ")
    said += answer.stderr
    assert all(word in said for word in words), said
    assert "Traceback" not in said
    assert json.loads(loaded) == []
    assert answer.returncode == (2 if "posix.system" in words else 0)
  assert "shapegan=shapegan_jax.tools.cli:main" in (ROOT / "setup.py").read_text()
  answer = python("-m", "shapegan_jax.tools", "convert", "--method=gof")
  assert answer.returncode == 2
  assert answer.stderr.startswith("error: ")
  assert answer.stderr.count("\n") == 1
