"""The objects in torch's pickles: storages, tensors as views of them, state dicts and whole modules.

This is also the list of all names that a checkpoint may contain; none of them is ever imported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from shapegan_jax.convert.pickles import Named, Record, Unreadable, printable

MOST_NUMBERS = 1 << 31
_MOST_AXES = 8
_MOST_MODULES, _MOST_DEPTH, _LONGEST_NAME = 10_000, 32, 100

_STORAGES = {
  **{"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bfloat16"},
  **{"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1"},
  **{"ByteStorage": "u1", "BoolStorage": "?"},
}
_INERT = {
  ("__builtin__", "set"),
  ("builtins", "set"),
  ("torch", "device"),
  ("_codecs", "encode"),
  ("argparse", "Namespace"),
  *(("torch", name) for name in ("float16", "float32", "float64", "bfloat16", "int32", "int64", "bool", "uint8")),
  *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
  ("numpy", "dtype"),
}
_INERT_MODULES = ("generators.", "siren.", "discriminators.", "torch.nn.modules.", "torch.nn.backends.", "torch_ema.")
"""Names that are admitted but ignored, such as the classes of the methods' own code and of torch's layers."""


@dataclasses.dataclass(eq=False)
class Storage:
  """A flat array. `kind` is numpy's name of its type, or bfloat16; `values` is set when the data is read."""

  key: str
  kind: str
  count: int
  values: np.ndarray | None = None

  @property
  def item_bytes(self) -> int:
    return 2 if self.kind == "bfloat16" else np.dtype(self.kind).itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
  """A view of a storage. Offset and strides are in elements and were checked to stay inside the storage."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def array(self) -> np.ndarray:
    """The values as a read-only array; a view, except that bfloat16 becomes float32."""
    values = self.storage.values[self.offset :]
    strides = tuple(stride * values.itemsize for stride in self.strides)
    return np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)


class Storages:
  """The storages to which a pickle refers, by key."""

  def __init__(self):
    self.by_key: dict[str, Storage] = {}

  def find(self, reference: Any) -> Any:
    """("storage", type, key, location, count[, view]) -> Storage; ("module", class, file, source) -> class."""
    if type(reference) is tuple and len(reference) == 4 and reference[0] == "module":
      return reference[1]  # the source code next to it is ignored
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
      raise Unreadable("damaged: its pickle refers to something that is not a storage")
    _, kind, key, _, count, *view = reference
    if not isinstance(kind, Named) or kind.name not in _STORAGES or type(key) is not str or type(count) is not int:
      raise Unreadable("damaged: a storage without type, key or size")
    storage = self.by_key.setdefault(key, Storage(key, _STORAGES[kind.name], count))
    if storage.kind != _STORAGES[kind.name] or storage.count != count or not 0 <= count <= MOST_NUMBERS:
      raise Unreadable(f"damaged: storage {printable(key)} has an impossible size, or two types or sizes")
    if any(view):
      raise Unreadable("has views of storages, as written by torch before 0.4; save it again with a newer torch")
    return storage


def fill(storage: Storage, raw: bytes, order: str) -> None:
  """Sets the values of a storage from bytes; the byte order `order` is "<" or ">"."""
  if storage.kind == "bfloat16":
    storage.values = (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
  else:
    storage.values = np.frombuffer(raw, np.dtype(storage.kind).newbyteorder(order))


def tensors_of(tree: Any) -> dict[str, Tensor]:
  """The named tensors of a state dict, or of a whole pickled module (its parameters and buffers, in torch's order).

  Raises:
    Unreadable: `tree` is neither.
  """
  if isinstance(tree, dict):
    found = dict(_state_dict(tree))
  elif isinstance(tree, Record) and isinstance(tree.state, dict) and "_modules" in tree.state:
    found = dict(_module(tree))
  else:
    raise Unreadable(f"holds {_described(tree)}, neither a state dict nor a module")
  storages = {id(tensor.storage): tensor.storage for tensor in found.values()}
  if sum(math.prod(t.shape) for t in found.values()) > sum(storage.count for storage in storages.values()):
    raise Unreadable("damaged: its tensors overlap")
  return found


def _state_dict(tree: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
  for name, value in tree.items():
    if not isinstance(name, str) or not isinstance(value, Tensor):
      raise Unreadable(f"holds {printable(str(name))}: {_described(value)}, where a state dict has a named tensor")
    yield name, value


def _module(tree: Record) -> Iterator[tuple[str, Tensor]]:
  # The same module may occur many times in the tree, so visits are counted.
  waiting, visits = [("", tree, 0)], 0
  while waiting:
    prefix, module, depth = waiting.pop()
    visits += 1
    if depth > _MOST_DEPTH or visits > _MOST_MODULES:
      raise Unreadable("damaged: it has too many modules, or they are nested too deeply")
    state = _expect(dict, module.state)
    for group in ("_parameters", "_buffers"):
      for name, value in _children(state, group):
        yield f"{prefix}{name}", _expect(Tensor, value)
    children = [(f"{prefix}{name}.", _expect(Record, child), depth + 1) for name, child in _children(state, "_modules")]
    waiting += children[::-1]


def _children(state: dict[Any, Any], group: str) -> Iterator[tuple[str, Any]]:
  for name, value in _expect(dict, state.get(group, {})).items():
    if len(_expect(str, name)) > _LONGEST_NAME:
      raise Unreadable(f"damaged: a name in one of its modules has {len(name)} letters")
    if value is not None:  # torch stores None for absent parameters, such as a bias
      yield name, value


def _expect(kind: type, value: Any) -> Any:
  if not isinstance(value, kind):
    raise Unreadable(f"damaged: a module has {_described(value)} where a {kind.__name__} is expected")
  return value


def _described(value: Any) -> str:
  return f"an instance of {value.kind}" if isinstance(value, Record) else f"a {type(value).__name__}"


def find_named(module: str, name: str) -> Named:
  """The replacement of a name in a file; raises `Unreadable` with the name if it is not admitted."""
  if module == "collections" and name == "OrderedDict":
    return Named(module, name, lambda: {})
  if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
    return Named(module, name, _tensor)
  if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
    return Named(module, name, lambda data, *unused: _expect(Tensor, data))
  if module == "torch" and name == "Size":
    return Named(module, name, lambda *sizes: sizes)
  storage = module in ("torch", "torch.cuda") and name in _STORAGES
  if storage or (module, name) in _INERT or (module.startswith(_INERT_MODULES) and name.isidentifier()):
    return Named(module, name)
  raise Unreadable(
    f"refused: it refers to {printable(f'{module}.{name}')}, which no checkpoint of these methods needs; "
    "nothing was executed"
  )


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *unused: Any) -> Tensor:
  """A checked view of a storage; the arguments are those of torch's `_rebuild_tensor_v2`."""
  if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
    raise Unreadable("damaged: a tensor without storage, shape or strides")
  numbers = (offset, *shape[: _MOST_AXES + 1], *strides[: _MOST_AXES + 1])
  if len(shape) != len(strides) or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in numbers):
    raise Unreadable("damaged: a tensor with an impossible shape or stride")
  elements = math.prod(shape)
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
  if elements > storage.count or offset > storage.count or (elements and last >= storage.count):
    raise Unreadable(f"damaged: a tensor of shape {printable(str(shape))} exceeds its {storage.count} stored values")
  return Tensor(storage, offset, shape, strides)
