"""Pickles read as data: an interpreter of the format that never imports or calls what a file names.

A pickle is a program for a stack machine, and Python's own interpreter imports and calls whatever the program names.
This one supports only the instructions that `torch.save` writes. A class or function named in a file becomes a `Named`,
if the caller admits that name; a call becomes a `Record` of the name and its arguments, or the result of a function
that the caller provides in its place.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
import warnings
from collections.abc import Callable
from typing import Any

MOST_BYTES = 1 << 24
MOST_INSTRUCTIONS = 1_000_000
"""Far above any published checkpoint (thousands of instructions, tens of kilobytes). Memory is proportional to both: no
instruction creates more than one small object, and shared objects stay shared."""

Maker = Callable[..., Any]
"""A replacement for a function that a file would have called: the file's arguments -> a value."""


class Unreadable(Exception):
  """The reason why a file cannot be read, in one line. `torch_files.naming` prepends the file's name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
  """A class or function named in a file, never imported. `make` replaces calls of it; None: calls become `Record`s."""

  module: str
  name: str
  make: Maker | None = None

  def __str__(self) -> str:
    return printable(f"{self.module}.{self.name}")


@dataclasses.dataclass(eq=False)
class Record:
  """A call or an instance in a file: its name, its arguments and, for instances, their attributes."""

  kind: Named
  arguments: tuple[Any, ...] = ()
  state: Any = None


def printable(text: str) -> str:
  """`text` from a file as one printable line of at most 120 characters."""
  shown = "".join(letter if letter.isprintable() else "?" for letter in text[:121])
  return shown if len(shown) <= 120 else shown[:117] + "..."


def read_pickle(
  stream: io.BytesIO, find: Callable[[str, str], Named], find_persistent: Callable[[Any], Any] | None = None
) -> Any:
  """The value of the pickle at the stream's position, which moves to its end.

  Args:
    find: (module, name) -> its replacement; raises `Unreadable` for names that are not admitted.
    find_persistent: persistent id -> the object that the file stores elsewhere.

  Raises:
    Unreadable: a name is not admitted, or torch does not write such pickles.
    Exception: any other, if the bytes are damaged.
  """
  machine = _Machine(find, find_persistent)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the decoder warns of invalid escapes in damaged strings
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
      if count >= MOST_INSTRUCTIONS:
        raise Unreadable(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions, more than any checkpoint needs")
      machine.step(instruction.name, argument)
  (value,) = machine.stack
  return value


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
  *("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
  *("BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"),
}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
  """The stack, its marks and the memo; `step` executes one instruction. Sets are represented as lists."""

  def __init__(self, find: Callable[[str, str], Named], find_persistent: Callable[[Any], Any] | None):
    self.stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}
    self._find = find
    self._find_persistent = find_persistent

  def step(self, name: str, argument: Any) -> None:
    stack = self.stack
    if name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _LITERALS:
      stack.append(argument)
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name in _TUPLES:
      items = tuple(self._pop() for _ in range(_TUPLES[name]))
      stack.append(items[::-1])
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(self._memo[argument])
    elif name in ("BINPUT", "LONG_BINPUT"):
      self._memo[argument] = stack[-1]
    elif name == "MEMOIZE":
      self._memo[len(self._memo)] = stack[-1]
    elif name == "MARK":
      self._marks.append(len(stack))
    elif name == "LONG1" and argument.bit_length() <= 128:
      stack.append(argument)
    elif name == "GLOBAL":
      module, _, attribute = argument.partition(" ")
      stack.append(self._find(module, attribute))
    elif name == "STACK_GLOBAL":
      attribute, module = self._pop(), self._pop()
      if not (isinstance(module, str) and isinstance(attribute, str)):
        raise Unreadable("damaged: a name in its pickle is not a string")
      stack.append(self._find(module, attribute))
    elif name in ("REDUCE", "NEWOBJ"):
      arguments, kind = self._pop(), self._pop()
      stack.append(_call(kind, arguments))
    elif name == "BUILD":
      state = self._pop()
      _build(stack[-1], state)
    elif name == "BINPERSID" and self._find_persistent is not None:
      stack.append(self._find_persistent(self._pop()))
    elif name == "TUPLE":
      stack.append(tuple(self._pop_to_mark()))
    elif name in ("APPENDS", "ADDITEMS"):
      items = self._pop_to_mark()
      _as(list, stack[-1]).extend(items)
    elif name == "APPEND":
      item = self._pop()
      _as(list, stack[-1]).append(item)
    elif name == "SETITEMS":
      items = self._pop_to_mark()
      _set_items(stack[-1], items[::2], items[1::2])
    elif name == "SETITEM":
      value, key = self._pop(), self._pop()
      _set_items(stack[-1], [key], [value])
    elif name not in ("PROTO", "FRAME", "STOP"):
      raise Unreadable(f"refused: its pickle uses the instruction {name}, unlike torch's; nothing was executed")

  def _pop(self) -> Any:
    if self._marks and len(self.stack) <= self._marks[-1]:
      raise Unreadable("damaged: its pickle reads past a mark")
    return self.stack.pop()

  def _pop_to_mark(self) -> list[Any]:
    mark = self._marks.pop()
    items = self.stack[mark:]
    del self.stack[mark:]
    return items


def _as(kind: type, value: Any) -> Any:
  if type(value) is not kind:
    raise Unreadable(f"damaged: its pickle adds items to an object that is not a {kind.__name__}")
  return value


def _call(kind: Any, arguments: Any) -> Any:
  if not isinstance(kind, Named) or type(arguments) is not tuple:
    raise Unreadable("refused: its pickle calls an object that is not a name; nothing was executed")
  return Record(kind, arguments) if kind.make is None else kind.make(*arguments)


def _build(target: Any, state: Any) -> None:
  """Sets the attributes of an instance. Those of an ordered dict (torch's version numbers) are dropped."""
  if isinstance(target, Record):
    target.state = state
  elif type(target) is not dict:
    raise Unreadable("refused: its pickle sets attributes of an object that is not an instance; nothing was executed")


def _set_items(target: Any, keys: list[Any], values: list[Any]) -> None:
  _as(dict, target)
  for key, value in zip(keys, values, strict=True):
    # Only keys with a constant-time hash: hashing deeply nested tuples would overflow the interpreter's stack.
    if not (key is None or type(key) in (str, int, float, bool, bytes)):
      raise Unreadable("damaged: a dictionary in its pickle has a key that is not a string or number")
    target[key] = value
