"""NVIDIA's StyleGAN2 pickles (`.pkl`), read without torch or TensorFlow and without running the source code in them.

Files of the PyTorch code contain modules whose tensors are embedded files in torch's old format; files of the
TensorFlow code contain networks as lists of numpy arrays. Everything else in them is kept as inert data, and nothing is
executed.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from shapegan_jax.convert.pickles import Named, Record, Unreadable, printable, read_pickle
from shapegan_jax.convert.torch_files import MOST_FILE_BYTES, naming, read_stream
from shapegan_jax.convert.torch_values import Storage, Tensor, find_named, tensors_of

_HOMES = ("dnnlib.", "torch_utils.", "training.")
_KINDS = ("f2", "f4", "f8", "i4", "i8")


def read_nvidia(path: str | Path) -> Any:
  """The contents of a file: dicts, tuples, strings, numbers, tensors, and `Record`s for `network_arrays`.

  Raises:
    UserError: the file is missing, damaged, or refers to a name that is not admitted. None of it is ever executed.
  """
  path = Path(path)
  with naming(path):
    size = path.stat().st_size
    if size > MOST_FILE_BYTES:
      raise Unreadable(f"with {size:,} bytes it is larger than any such file")
    stream = io.BytesIO(path.read_bytes())
    tree = read_pickle(stream, _Names(size).find)
    if stream.read(1):
      raise Unreadable("damaged: there is data after its pickle")
    return tree


def network_arrays(network: Any) -> dict[str, Tensor | np.ndarray]:
  """The named tensors of a PyTorch module (`synthesis.b4.const`) or TensorFlow network (`synthesis/4x4/Const/const`).

  Raises:
    Unreadable: `network` is neither.
  """
  if isinstance(network, Record) and isinstance(network.state, dict) and "variables" in network.state:
    return _tensorflow_arrays(network, "", 0)
  return tensors_of(network)


def attribute(module: Any, path: str, name: str) -> Any:
  """The attribute `name` of the submodule at `path` ("b4.mbstd"); None if it does not exist."""
  for part in path.split("."):
    state = module.state if isinstance(module, Record) else None
    children = state.get("_modules") if isinstance(state, dict) else None
    module = children.get(part) if isinstance(children, dict) else None
  return module.state.get(name) if isinstance(module, Record) and isinstance(module.state, dict) else None


class _Names:
  """Resolves the names in one file. The total size of its tensors is limited by the file's: otherwise a small file
  could fill the memory by referring to the same bytes many times."""

  def __init__(self, size: int):
    self._left = size

  def find(self, module: str, name: str) -> Named:
    if (module, name) == ("torch_utils.persistence", "_reconstruct_persistent_obj"):
      return Named(module, name, self._module)
    if (module, name) == ("torch.storage", "_load_from_bytes"):
      return Named(module, name, self._storage)
    if (module, name) == ("dnnlib.util", "EasyDict"):
      return Named(module, name, lambda: {})
    arrays = module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct"
    if arrays or (module, name) == ("numpy", "ndarray") or (module.startswith(_HOMES) and name.isidentifier()):
      return Named(module, name)
    return find_named(module, name)

  def _module(self, meta: Any) -> Record:
    if type(meta) is not dict or type(meta.get("state")) is not dict or type(meta.get("class_name")) is not str:
      raise Unreadable("damaged: one of its modules has no valid state")
    return Record(Named("training.networks", printable(meta["class_name"])), state=meta["state"])

  def _storage(self, raw: Any) -> Storage:
    self._left -= len(raw) if type(raw) is bytes else 0
    if type(raw) is not bytes or self._left < 0:
      raise Unreadable("damaged: its tensors overlap")
    storage = read_stream(raw)
    if not isinstance(storage, Storage):
      raise Unreadable("damaged: one of its tensors has no data")
    return storage


def _tensorflow_arrays(network: Record, prefix: str, depth: int) -> dict[str, np.ndarray]:
  variables, parts = network.state.get("variables"), network.state.get("components", {})
  if type(variables) is not list or type(parts) is not dict or depth > 1:
    raise Unreadable("damaged: a network without a list of variables")
  found = {}
  for entry in variables:
    if type(entry) is not tuple or len(entry) != 2 or type(entry[0]) is not str:
      raise Unreadable("damaged: a variable without a name")
    found[prefix + entry[0]] = _array(entry[0], entry[1])
  for name, part in parts.items():
    if type(name) is not str or not isinstance(part, Record) or type(part.state) is not dict:
      raise Unreadable("damaged: a component of a network is not a network")
    found |= _tensorflow_arrays(part, f"{prefix}{name}/", depth + 1)
  return found


def _array(name: str, value: Any) -> np.ndarray:
  """A pickled numpy array or scalar."""
  if isinstance(value, Record) and value.kind.name == "_reconstruct":
    _, shape, dtype, fortran, raw = value.state
  elif isinstance(value, Record) and value.kind.name == "scalar":
    (dtype, raw), shape, fortran = value.arguments, (), False
  else:
    raise Unreadable(f"damaged: {printable(name)} is not an array")
  kind = dtype.arguments[0] if isinstance(dtype, Record) and dtype.kind.name == "dtype" else None
  order = dtype.state[1] if kind in _KINDS else None
  if order not in ("<", ">") or type(raw) is not bytes or type(shape) is not tuple or fortran not in (False, True):
    raise Unreadable(f"damaged: {printable(name)} is an array of an unsupported type")
  if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) * np.dtype(kind).itemsize != len(raw):
    raise Unreadable(f"damaged: {printable(name)} has an impossible shape")
  return np.frombuffer(raw, np.dtype(order + kind)).reshape(shape, order="F" if fortran else "C")
