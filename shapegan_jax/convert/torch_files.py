"""Files written by `torch.save`, read without torch and without executing anything in them.

Both formats are supported: the zip archive of torch 1.6 and later (`<root>/data.pkl`, one member `<root>/data/<key>`
per storage) and the older stream (four pickles and a list of keys, then the count and the values of every storage).
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shapegan_jax.convert.pickles import MOST_BYTES, Unreadable, printable, read_pickle
from shapegan_jax.convert.torch_values import Storages, fill, find_named
from shapegan_jax.errors import UserError

MOST_FILE_BYTES = 1 << 31
MOST_DIRECTORY_BYTES = 1 << 22  # of a zip archive: tens of thousands of members

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_torch(path: str | Path) -> Any:
  """The contents of a file: dicts, lists, tuples, numbers, strings, `Tensor`s, and `Record`s of other instances.

  Raises:
    UserError: the file is missing, damaged, or refers to a name that is not admitted. None of it is ever executed.
  """
  path = Path(path)
  with naming(path):
    if path.is_dir():
      raise Unreadable("is a folder; give a checkpoint written by torch.save")
    if not path.is_file():
      raise Unreadable("no such file; give a checkpoint written by torch.save")
    with path.open("rb") as file:
      size = os.fstat(file.fileno()).st_size
      if size > MOST_FILE_BYTES:
        raise Unreadable(f"with {size:,} bytes it is larger than any checkpoint of these methods")
      start = file.read(4)
      file.seek(0)
      if start == b"PK\x03\x04":
        return _read_zip(file, size)
      if start[:1] == b"\x80":
        return _read_stream(file, size)
      raise Unreadable("not written by torch.save (neither a zip archive nor a pickle); check the download")


def read_stream(raw: bytes) -> Any:
  """The contents of a file in the format before torch 1.6, from its bytes; such bytes are also in pickles of tensors.

  Raises:
    Unreadable: a name is not admitted, or torch does not write such files.
    Exception: any other, if the bytes are damaged.
  """
  return _read_stream(io.BytesIO(raw), len(raw))


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
  """Turns every exception from reading the file at `path` into a UserError with one line that names the file."""
  try:
    yield
  except UserError:
    raise
  except Unreadable as error:
    raise UserError(f"{path}: {error}") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror or printable(str(error))}); check the path") from error
  except Exception as error:
    # Malicious bytes can make the parsers raise nearly anything, including MemoryError and RecursionError.
    helpful = isinstance(error, zipfile.BadZipFile | NotImplementedError | ValueError | EOFError | MemoryError)
    words = (str(error).strip() or type(error).__name__) if helpful else "its contents are inconsistent"
    reason = printable(words.splitlines()[0])
    raise UserError(f"{path}: damaged, or not written by torch.save ({reason}); download it again") from error


def _read_zip(file: IO[bytes], size: int) -> Any:
  with contextlib.closing(_open_zip(file, size)) as archive:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
      raise Unreadable("damaged: two members of its archive share a name")
    for member in members.values():
      if member.compress_type or member.compress_size != member.file_size or member.flag_bits & 1:
        raise Unreadable(f"{printable(member.filename)} is compressed or encrypted, which torch never writes")
    if sum(member.file_size for member in members.values()) > size:
      raise Unreadable("damaged: the members of its archive overlap")
    for member in members.values():
      _drain(archive, member)
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
      raise Unreadable("a zip archive without data.pkl: not written by torch.save")
    if f"{roots[0]}/constants.pkl" in members:
      raise Unreadable("a TorchScript archive: compiled code, not a checkpoint; look for the state dict")

    def read(name: str) -> bytes:
      member = members.get(f"{roots[0]}/{name}")
      if member is None:
        raise Unreadable(f"damaged: its archive lacks {printable(name)}")
      return archive.read(member)

    if members[f"{roots[0]}/data.pkl"].file_size > MOST_BYTES:
      raise Unreadable("its pickle is larger than any checkpoint's")
    order = read("byteorder").strip() if f"{roots[0]}/byteorder" in members else b"little"
    if order not in (b"little", b"big"):
      raise Unreadable("damaged: it has an unknown byte order")
    storages = Storages()
    tree = _whole_pickle(read("data.pkl"), storages)
    for storage in storages.by_key.values():
      raw = read(f"data/{storage.key}")
      if len(raw) != storage.count * storage.item_bytes:
        raise Unreadable(f"damaged: storage {printable(storage.key)} has {len(raw)} bytes for {storage.count} values")
      fill(storage, raw, "<" if order == b"little" else ">")
  return tree


def _open_zip(file: IO[bytes], size: int) -> zipfile.ZipFile:
  """The archive, after checking that its end record is present and its directory is of a reasonable size."""
  file.seek(max(0, size - 22))
  end = file.read(22)
  if len(end) != 22 or end[:4] != b"PK\x05\x06":
    raise Unreadable("truncated: the end of its zip archive is missing; download it again")
  if struct.unpack("<I", end[12:16])[0] > MOST_DIRECTORY_BYTES:
    raise Unreadable("damaged: the directory of its zip archive is larger than any checkpoint's")
  file.seek(0)
  return zipfile.ZipFile(file)


def _drain(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
  """Reads a member in chunks to its end, where zipfile compares the checksum."""
  with archive.open(member) as stream:
    while stream.read(1 << 20):
      pass


def _whole_pickle(raw: bytes, storages: Storages) -> Any:
  stream = io.BytesIO(raw)
  tree = read_pickle(stream, find_named, storages.find)
  if stream.read(1):
    raise Unreadable("damaged: there is data after its pickle")
  return tree


def _read_stream(file: IO[bytes] | io.BytesIO, size: int) -> Any:
  stream = io.BytesIO(file.read(MOST_BYTES))
  if read_pickle(stream, find_named) != _MAGIC:
    raise Unreadable("a pickle, but not written by torch.save")
  if read_pickle(stream, find_named) != _PROTOCOL:
    raise Unreadable("damaged: an unknown version of torch's format")
  system = read_pickle(stream, find_named)
  if type(system) is not dict or type(system.get("little_endian")) is not bool:
    raise Unreadable("damaged: its byte order is missing")
  order = "<" if system["little_endian"] else ">"
  storages = Storages()
  tree = read_pickle(stream, find_named, storages.find)
  keys = read_pickle(stream, find_named)
  if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages.by_key):
    raise Unreadable("damaged: its list of storages does not match its tensors")
  file.seek(stream.tell())
  left = size - stream.tell()
  for key in keys:
    storage = storages.by_key[key]
    length = storage.count * storage.item_bytes
    left -= 8 + length
    if left < 0:
      raise Unreadable("truncated: data is missing at its end; download it again")
    if struct.unpack(f"{order}q", file.read(8))[0] != storage.count:
      raise Unreadable(f"damaged: storage {printable(key)} does not have the size its tensors expect")
    fill(storage, file.read(length), order)
  if left:
    raise Unreadable("damaged: there is data after its last tensor")
  return tree
