"""Pickles read as data: an interpreter of the format that imports nothing and calls nothing a file names.

A pickle is a program for a stack machine, and Python's own machine imports and calls whatever the program says. This
one knows the instructions that `torch.save` writes and no others. What a file names (a class, a function) becomes a
`Named`, if the caller admits that name; what a file would have called becomes a `Record` of the name and its arguments,
or the answer of a function that the caller has put in its place.
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
"""Far beyond any published checkpoint (thousands of instructions, tens of kilobytes). Memory is proportional to both:
no instruction makes more than one small object, and what is shared stays shared."""

Maker = Callable[..., Any]
"""Stands in for what a file would have called: the file's arguments -> a value."""


class Unreadable(Exception):
  """Why a file cannot be read, in one line. `torch_files.naming` puts the file's name in front."""


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
  """A class or function that a file named. It is never imported. `make` is what calling it gives; None: a `Record`."""

  module: str
  name: str
  make: Maker | None = None

  def __str__(self) -> str:
    return printable(f"{self.module}.{self.name}")


@dataclasses.dataclass(eq=False)
class Record:
  """What a call or an instance in a file amounts to: its name, its arguments and, for instances, their attributes."""

  kind: Named
  arguments: tuple[Any, ...] = ()
  state: Any = None


def printable(text: str) -> str:
  """One line of at most 120 characters that a terminal can show, whatever a file says."""
  shown = "".join(letter if letter.isprintable() else "?" for letter in text[:121])
  return shown if len(shown) <= 120 else shown[:117] + "..."


def read_pickle(
  stream: io.BytesIO, find: Callable[[str, str], Named], find_persistent: Callable[[Any], Any] | None = None
) -> Any:
  """The value of the pickle that starts at the stream's position; the stream then stands behind it.

  Args:
    find: (module, name) -> what stands for it; raises `Unreadable` for what is not admitted.
    find_persistent: what stands for an object that the file keeps elsewhere.

  Raises:
    Unreadable: something is not admitted, or this is no pickle that torch writes.
    Exception: any other, if the bytes are damaged.
  """
  machine = _Machine(find, find_persistent)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # damaged texts make the decoder wonder about backslashes
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
      if count >= MOST_INSTRUCTIONS:
        raise Unreadable(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions; no checkpoint needs so many")
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
  """The stack, the marks on it and the memo; `step` does one instruction. Sets are lists here."""

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
        raise Unreadable("damaged: a name in its pickle is no text")
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
      raise Unreadable(f"refused: its pickle uses the instruction {name} as torch never does; nothing was executed")

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
    raise Unreadable(f"damaged: its pickle adds items to what is no {kind.__name__}")
  return value


def _call(kind: Any, arguments: Any) -> Any:
  if not isinstance(kind, Named) or type(arguments) is not tuple:
    raise Unreadable("refused: its pickle calls what is no name; nothing was executed")
  return Record(kind, arguments) if kind.make is None else kind.make(*arguments)


def _build(target: Any, state: Any) -> None:
  """Attributes of an instance. Those of an ordered dict (torch keeps version numbers there) are dropped."""
  if isinstance(target, Record):
    target.state = state
  elif type(target) is not dict:
    raise Unreadable("refused: its pickle sets attributes of what is no instance; nothing was executed")


def _set_items(target: Any, keys: list[Any], values: list[Any]) -> None:
  _as(dict, target)
  for key, value in zip(keys, values, strict=True):
    # Only what hashes at once: nested tuples as keys would overflow the interpreter's own stack.
    if not (key is None or type(key) in (str, int, float, bool, bytes)):
      raise Unreadable("damaged: a dictionary in its pickle has a key that is no text or number")
    target[key] = value
