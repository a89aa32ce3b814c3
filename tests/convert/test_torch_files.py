"""Both of torch's formats are read to the bit, and nothing in a file is ever executed, whatever the file says."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_writer import (
  ORDERED_DICT,
  Call,
  Global,
  Persistent,
  Pickler,
  Raw,
  View,
  average,
  module,
  state_dict,
  stream_bytes,
  write,
  zip_bytes,
)

from shapegan_jax.convert import pickles
from shapegan_jax.convert.pickles import Unreadable
from shapegan_jax.convert.torch_files import naming, read_torch
from shapegan_jax.convert.torch_values import tensors_of
from shapegan_jax.errors import UserError

FORMS = {"zip": zip_bytes, "stream": stream_bytes}
MOST_MEMORY = 80 << 20


@pytest.fixture
def numbers(rng):
  return {"a.b.weight": rng.normal(size=(4, 3)).astype(np.float32), "a.b.bias": rng.normal(size=4).astype(np.float32)}


def arrays(tree):
  return {name: tensor.array() for name, tensor in tensors_of(tree).items()}


def same(found, expected):
  assert list(found) == list(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].shape == array.shape


def refusal(path, content: bytes) -> str:
  """What is said of a file with this content: one line that names it, within bounds of memory."""
  path.write_bytes(content)
  tracemalloc.start()
  try:
    with pytest.raises(UserError) as info:
      read_torch(path)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  said = str(info.value)
  assert said.startswith(f"{path}: "), said
  assert said.isprintable(), said
  assert len(said) < len(str(path)) + 400, said
  assert peak < MOST_MEMORY + 8 * len(content), peak
  return said


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_modules_and_averages_are_read_to_the_bit(form, numbers, tmp_path):
  same(arrays(read_torch(write(tmp_path / "s", state_dict(numbers), form=form))), numbers)
  tree = read_torch(write(tmp_path / "m", module(numbers, step=17), form=form))
  same(arrays(tree), numbers)
  assert tree.state["step"] == 17
  assert str(tree.kind) == "generators.generators.ImplicitGenerator3d"
  ema = read_torch(write(tmp_path / "e", average(list(numbers.values())), form=form))
  for tensor, expected in zip(ema.state["shadow_params"], numbers.values(), strict=True):
    np.testing.assert_array_equal(tensor.array(), expected)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("form", FORMS)
def test_every_type_in_either_byte_order(form, order, rng, tmp_path):
  values = rng.normal(size=6)
  tensors = {kind: values.astype(kind) for kind in ("float64", "float32", "float16", "int64", "int32", "bool", "uint8")}
  tensors["scalar"], tensors["empty"] = np.array(3, np.int64), np.zeros((0, 4), np.float32)
  path = tmp_path / "x"
  path.write_bytes(FORMS[form](state_dict(tensors), order=order))
  same(arrays(read_torch(path)), tensors)


@pytest.mark.parametrize("form", FORMS)
def test_views_share_their_storage_and_bfloat16_is_the_upper_half(form, tmp_path):
  base = np.arange(12, dtype=np.float32)
  halves = (base.view(np.uint32) >> 16).astype(np.uint16)
  tensors = {
    "transposed": View(base, 0, (4, 3), (1, 4)),
    "part": View(base, 5, (2,), (3,)),
    "brain": View(halves, 2, (3,), (1,), kind="BFloat16Storage"),
  }
  path = tmp_path / "x"
  path.write_bytes(FORMS[form](state_dict(tensors)))
  expected = {"transposed": base.reshape(3, 4).T, "part": base[[5, 8]], "brain": base[2:5]}
  same(arrays(read_torch(path)), expected)


def hostile(canary) -> dict[str, object]:
  """Programs that would create the file `canary`, or worse, in Python's own unpickler."""
  command = f"touch {canary}"
  system = Call(Global("os", "system"), (command,))
  posix = Call(Global("posix", "system"), (command,))
  code = f"open({str(canary)!r}, 'w').close()"
  text = Pickler().code
  admitted = Global("siren.siren", "Siren")
  return {
    "system": system,
    "posix": posix,
    "eval": Call(Global("builtins", "eval"), (code,)),
    "exec in python 2's words": Call(Global("__builtin__", "eval"), (code,)),
    "nested": Call(ORDERED_DICT, state={"_metadata": [({"a": (posix,)},)]}),
    "nested deeper": Call(Global("torch._utils", "_rebuild_parameter"), (posix, True, None)),
    "attribute of a name": Call(Global("siren.siren", "Siren.__init__.__globals__"), (command,)),
    "subprocess": Call(Global("subprocess", "Popen"), (["touch", str(canary)],), new=True),
    "state of a class": Call(admitted, state={"__setstate__": posix}, new=True),
    "build on a class": Raw(text(admitted) + text((None, {"__init__": 1})) + b"b"),
    "build on a function": Raw(text(Global("torch._utils", "_rebuild_tensor")) + text({"__defaults__": (1,)}) + b"b"),
    "load from bytes": Call(Global("torch.storage", "_load_from_bytes"), (b"x",)),
    "partial": Call(Global("functools", "partial"), (Global("os", "system"), command)),
    "getattr": Call(Global("builtins", "getattr"), (Global("os", "path"), "os")),
    "reduce of a record": Call(Call(admitted), (command,)),
    "call of a string": Call("os.system", (command,)),
    "inst": Raw(b"(" + text(command) + b"ios\nsystem\n"),
    "obj": Raw(b"(" + text(Global("os", "system")) + text(command) + b"o"),
    "extension": Raw(b"\x82\x01"),
    "stack global": Raw(b"\x8c\x02os\x8c\x06system\x93" + text((command,)) + b"R"),
    "stack global of no text": Raw(b"K\x01K\x02\x93"),
    "new with keywords": Raw(text(Global("os", "system")) + b")}\x92"),
    "newline in a name": Raw(b"\x8c\x04o\ns\x1b\x8c\x06system\x93"),
    "persistent": Persistent(("module", Global("os", "system"), "f", "s")),
    "persistent by text": Raw(b"Pos.system\n"),
    "text of an integer": Raw(b"I" + b"9" * 5000 + b"\n"),
    "dictionary by marks": Raw(b"(d"),
  }


@pytest.mark.parametrize("form", FORMS)
def test_hostile_pickles_are_refused_and_never_run(form, tmp_path):
  canary = tmp_path / "canary"
  for name, program in hostile(canary).items():
    for where, value in {"alone": program, "inside": state_dict({"a": program})}.items():
      said = refusal(tmp_path / "x.pth", FORMS[form](value))
      assert not canary.exists(), (name, where)
      if name in ("system", "eval", "subprocess", "load from bytes", "stack global", "nested"):
        assert "refused" in said, (name, where, said)
        assert any(word in said for word in ("system", "eval", "Popen", "_load_from_bytes")), said


def test_what_is_admitted_stays_inert(numbers, tmp_path):
  """Names of the methods' own code become records, even where such a module could be imported here."""
  code = Call(Global("siren.siren", "Siren"), ("touch",), state={"__reduce__": "x", "__class__": "y"}, new=True)
  tree = read_torch(write(tmp_path / "x", {"a": code}))
  assert type(tree["a"]).__name__ == "Record"
  assert tree["a"].state == {"__reduce__": "x", "__class__": "y"}


def test_the_canary_would_sing(tmp_path):
  """The programs above do run in Python's own unpickler: the test can fail."""
  import pickle

  canary = tmp_path / "canary"
  pickle.loads(Pickler().dumps(hostile(canary)["eval"]))
  assert canary.exists()


def test_hostile_pickles_around_the_main_one_are_refused(numbers, tmp_path):
  canary = tmp_path / "canary"
  bad = Call(Global("posix", "system"), (f"touch {canary}",))
  assert "posix.system" in refusal(tmp_path / "x", stream_bytes(state_dict(numbers), keys=bad))
  head = Pickler().dumps(0x1950A86A20F9469CFC6C) + Pickler().dumps(1001)
  assert "posix.system" in refusal(tmp_path / "x", head + Pickler().dumps(bad))
  assert "posix.system" in refusal(tmp_path / "x", Pickler().dumps(bad))
  assert not canary.exists()


ABSURD = {
  "huge storage": View(np.zeros(4, np.float32), 0, (4,), (1,), count=2**62),
  "more numbers than bytes": View(np.zeros(4, np.float32), 0, (4,), (1,), count=10**9),
  "negative count": View(np.zeros(4, np.float32), 0, (4,), (1,), count=-4),
  "another type": View(np.zeros(4, np.float32), 0, (4,), (1,), kind="DoubleStorage"),
  "beyond its end": View(np.zeros(4, np.float32), 1, (4,), (1,)),
  "stride beyond": View(np.zeros(4, np.float32), 0, (2,), (2**62,)),
  "stride zero": View(np.zeros(4, np.float32), 0, (2**40, 2**40), (0, 0)),
  "negative stride": View(np.zeros(4, np.float32), 3, (4,), (-1,)),
  "negative shape": View(np.zeros(4, np.float32), 0, (-2, -2), (1, 1)),
  "negative offset": View(np.zeros(4, np.float32), -1, (4,), (1,)),
  "shape of text": View(np.zeros(4, np.float32), 0, "4", "1"),
  "shape of floats": View(np.zeros(4, np.float32), 0, (4.0,), (1,)),
  "many axes": View(np.zeros(4, np.float32), 0, (1,) * 1000, (1,) * 1000),
  "large shape": View(np.zeros(4, np.float32), 0, (2**900,), (1,)),
  "deep key": Raw(b"}" + b")" + b"\x85" * 5_000 + b"Ns"),
  "bytes without end": Raw(b"\x8e" + struct.pack("<Q", 2**62)),
  "byte array without end": Raw(b"\x96" + struct.pack("<Q", 2**62)),
  "text without end": Raw(b"X\xff\xff\xff\x7f"),
  "large number": Raw(b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6),
  "endless duplication": Raw(b"]" + b"2" * 10),
  "items without a mark": Raw(b"]Ne"),
  "past the mark": Raw(b"NN(\x85t\x87"),
  "nothing": Raw(b""),
  "two values": Raw(b"NN"),
  "a list as key": Raw(b"}]Ns"),
  "one key without value": Raw(b"}(Nu"),
  "unknown": Raw(b"\xff"),
  "keys without values": Raw(b"N" + b"}" * 3),
}


@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("form", FORMS)
def test_absurd_contents_are_refused_within_bounds_of_memory(form, name, tmp_path):
  refusal(tmp_path / "x", FORMS[form](state_dict({"a": ABSURD[name]})))


ODD = {
  "memo far out": Raw(b")r\xff\xff\xff\x7f"),
  "deep tuples": Raw(b")" + b"\x85" * 5_000),
  "deep lists": Raw(b"]" * 5_000 + b"a" * 4_999),
  "itself": Raw(b"]q\x01h\x01a"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("form", FORMS)
def test_odd_contents_are_no_state_dict(form, name, tmp_path):
  """They are read, cost little, are dropped again, and hold no tensors."""
  path = tmp_path / "x"
  path.write_bytes(FORMS[form](state_dict({"a": ODD[name]})))
  tracemalloc.start()
  with naming(path), pytest.raises(Unreadable, match="where a state dict has a named tensor"):
    tensors_of(read_torch(path))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < MOST_MEMORY


def branching(levels: int, **state: object) -> Call:
  """A module whose tree has 2^levels leaves, though each level is written once."""
  kind, code = Global("siren.siren", "Siren"), Pickler()
  body = code.code(Call(kind, state={"_modules": {}, "_parameters": {}, **state}, new=True)) + b"q\x01"
  for _ in range(levels):
    shared = {"_modules": {"a": Raw(b"h\x01"), "b": Raw(b"h\x01")}}
    body += code.code(Call(kind, state=shared, new=True)) + b"q\x01"
  return Raw(b"(" + body + b"t")


def test_modules_cannot_branch_without_end(tmp_path):
  tree = read_torch(write(tmp_path / "x", branching(40)))[-1]
  with pytest.raises(Unreadable, match=r"too many|too deeply"):
    tensors_of(tree)
  assert tensors_of(read_torch(write(tmp_path / "y", branching(8)))[-1]) == {}


def test_tensors_that_overlap_cannot_multiply(tmp_path):
  base = np.zeros(1000, np.float32)
  tree = read_torch(write(tmp_path / "x", state_dict({f"a{i}": View(base, 0, (1000,), (1,)) for i in range(100)})))
  with pytest.raises(Unreadable, match="overlap"):
    tensors_of(tree)


def test_too_many_instructions_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 1000)
  assert "instructions" in refusal(tmp_path / "x", zip_bytes(Raw(b"](" + b"N" * 1000 + b"e")))
  read_torch(write(tmp_path / "x", Raw(b"](" + b"N" * 900 + b"e")))


@pytest.mark.parametrize("form", FORMS)
def test_truncated_files_are_refused(form, numbers, tmp_path):
  content = FORMS[form](state_dict(numbers))
  for length in [*range(0, 60), *range(60, len(content), 37), len(content) - 1]:
    refusal(tmp_path / "x", content[:length])
  refusal(tmp_path / "x", content + b"more")


def test_random_bytes_are_refused(rng, tmp_path):
  for start in (b"", b"PK\x03\x04", b"\x80\x02", Pickler().dumps(0x1950A86A20F9469CFC6C)):
    for _ in range(20):
      refusal(tmp_path / "x", start + rng.bytes(int(rng.integers(0, 400))))


def test_a_flipped_bit_in_an_archive_is_refused_or_changes_nothing(numbers, rng, tmp_path):
  """Checksums cover all that is used: a flip that goes unseen is in a date or an attribute."""
  content, path, refused = zip_bytes(state_dict(numbers)), tmp_path / "x", 0
  for position in rng.choice(len(content), 300, replace=False):
    flipped = bytearray(content)
    flipped[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(flipped)
    try:
      found = arrays(read_torch(path))
    except UserError:
      refused += 1
      continue
    same(found, numbers)
  assert refused > 150


def test_a_flipped_bit_in_the_instructions_of_a_stream_never_escapes(numbers, rng, tmp_path):
  """That format has no checksums: what cannot be told is read as it stands, the rest is one line."""
  content, path, said = stream_bytes(state_dict(numbers)), tmp_path / "x", []
  for position in rng.choice(len(content) - 64, 300, replace=False):
    flipped = bytearray(content)
    flipped[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(flipped)
    try:
      read_torch(path)
    except UserError as error:
      said.append(str(error))
  assert len(said) > 100
  assert all(line.isprintable() for line in said)


def compressed(value: object) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(zip_bytes(value))) as source, zipfile.ZipFile(buffer, "w") as target:
    for name in source.namelist():
      target.writestr(name, source.read(name), zipfile.ZIP_DEFLATED)
  return buffer.getvalue()


def test_archives_that_torch_never_writes_are_refused(numbers, tmp_path):
  path, value = tmp_path / "x", state_dict(numbers)
  bomb = state_dict({"a": np.zeros(1 << 22, np.float32)})
  assert "compressed" in refusal(path, compressed(bomb))
  assert "data.pkl" in refusal(path, zip_bytes(value).replace(b"data.pkl", b"data.txt"))
  assert "TorchScript" in refusal(path, zip_bytes(value, extra={"archive/constants.pkl": b"x"}))
  assert "byte order" in refusal(path, zip_bytes(value, order="middle"))
  assert "larger" in refusal(path, zip_bytes(value, extra={f"archive/{i:0100d}": b"" for i in range(30_000)}))
  unused = zip_bytes(value, extra={"archive/.data/serialization_id": b"0" * 40})
  assert "CRC" in refusal(path, unused.replace(b"0" * 40, b"1" * 40))
  twice = io.BytesIO(zip_bytes(value))
  with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
    archive.writestr("archive/data/0", b"other")
  assert "share a name" in refusal(path, twice.getvalue())


def test_a_missing_storage_or_a_wrong_size_is_named(numbers, tmp_path):
  content = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(zip_bytes(state_dict(numbers)))) as source, zipfile.ZipFile(content, "w") as target:
    for name in source.namelist():
      if not name.endswith("data/1"):
        target.writestr(name, source.read(name))
  assert "lacks data/1" in refusal(tmp_path / "x", content.getvalue())


def test_a_path_that_is_no_file_is_named(tmp_path):
  for path in (tmp_path / "absent.pth", tmp_path, "bad\0name"):
    with pytest.raises(UserError, match=r"no such file|folder|null"):
      read_torch(path)
  if os.geteuid():
    (tmp_path / "locked").touch(mode=0)
    with pytest.raises(UserError, match="cannot be read"):
      read_torch(tmp_path / "locked")
