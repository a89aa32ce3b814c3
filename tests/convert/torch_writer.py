"""Files as `torch.save` writes them, from numpy arrays and without torch: a small assembler of pickles and containers.

Values may be None, bools, numbers, texts, bytes, lists, tuples, dicts, arrays (which become tensors), and the records
below, which can say anything that a pickle can say.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
  **{"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"},
  **{"int32": "IntStorage", "bool": "BoolStorage", "uint8": "ByteStorage"},
}


@dataclasses.dataclass(eq=False)
class Global:
  module: str
  name: str


@dataclasses.dataclass(eq=False)
class Call:
  """REDUCE (or NEWOBJ), then perhaps items of a dict, then perhaps BUILD with a state."""

  function: Any
  arguments: Any = ()
  items: Mapping | None = None
  state: Any = None
  new: bool = False


@dataclasses.dataclass(eq=False)
class Persistent:
  reference: Any


@dataclasses.dataclass(eq=False)
class Raw:
  """Instructions as they are; they must leave one value."""

  code: bytes


@dataclasses.dataclass(eq=False)
class View:
  """A tensor over part of a storage: offset, shape and strides in elements. `kind` overrides the storage's type."""

  storage: np.ndarray
  offset: Any
  shape: Any
  strides: Any
  kind: str | None = None
  count: Any = None


ORDERED_DICT = Global("collections", "OrderedDict")


class Pickler:
  """Assembles one pickle; `storages` collects the arrays it refers to, by key."""

  def __init__(self, *, names_classes: bool = False):
    self.storages: dict[str, np.ndarray] = {}
    self._keys: dict[int, str] = {}
    self._names_classes = names_classes

  def dumps(self, value: Any) -> bytes:
    return b"\x80\x02" + self.code(value) + b"."

  def code(self, value: Any) -> bytes:
    if value is None:
      return b"N"
    if isinstance(value, bool):
      return b"\x88" if value else b"\x89"
    if isinstance(value, int):
      if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
      raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
      return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, float):
      return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
      raw = value.encode()
      return b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, bytes):
      return b"C" + bytes([len(value)]) + value
    if isinstance(value, tuple):
      return b"(" + b"".join(map(self.code, value)) + b"t"
    if isinstance(value, list):
      return b"](" + b"".join(map(self.code, value)) + b"e"
    if isinstance(value, dict):
      return b"}" + self._items(value)
    if isinstance(value, Global):
      return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Persistent):
      return self.code(value.reference) + b"Q"
    if isinstance(value, Raw):
      return value.code
    if isinstance(value, View):
      return self._tensor(value)
    if isinstance(value, np.ndarray):
      array = np.ascontiguousarray(value).reshape(value.shape)
      strides = tuple(stride // value.itemsize for stride in array.strides)
      return self._tensor(View(array.reshape(-1), 0, tuple(map(int, value.shape)), strides))
    function = value.function
    if self._names_classes and value.new:
      # The old format sends a class of a module with its source text.
      function = Persistent(("module", function, "siren.py", "class Siren: pass"))
    code = self.code(function) + self.code(value.arguments) + (b"\x81" if value.new else b"R")
    code += b"" if value.items is None else self._items(value.items)
    return code + (b"" if value.state is None else self.code(value.state) + b"b")

  def _items(self, items: Mapping) -> bytes:
    return b"(" + b"".join(self.code(key) + self.code(item) for key, item in items.items()) + b"u"

  def _tensor(self, view: View) -> bytes:
    key = self._keys.setdefault(id(view.storage), str(len(self._keys)))
    self.storages[key] = view.storage
    kind = Global("torch", view.kind or STORAGES[view.storage.dtype.name])
    count = view.storage.size if view.count is None else view.count
    reference = ("storage", kind, key, "cpu", count) + ((None,) if self._names_classes else ())
    arguments = (Persistent(reference), view.offset, view.shape, view.strides, False, Call(ORDERED_DICT))
    return self.code(Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments))


def zip_bytes(value: Any, *, order: str = "little", version: bytes = b"3\n", extra: Mapping[str, bytes] = {}) -> bytes:
  """The format of torch 1.6 and later."""
  pickler, buffer = Pickler(), io.BytesIO()
  code = pickler.dumps(value)
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
    archive.writestr("archive/data.pkl", code)
    archive.writestr("archive/byteorder", order)
    for key, array in pickler.storages.items():
      archive.writestr(f"archive/data/{key}", _raw(array, order))
    archive.writestr("archive/version", version)
    for name, raw in extra.items():
      archive.writestr(name, raw)
  return buffer.getvalue()


def stream_bytes(value: Any, *, order: str = "little", keys: Any = None) -> bytes:
  """The format before torch 1.6. `keys` replaces the list of storages."""
  pickler, plain = Pickler(names_classes=True), Pickler()
  code = pickler.dumps(value)
  system = {"protocol_version": 1001, "little_endian": order == "little", "type_sizes": {"short": 2, "int": 4}}
  head = plain.dumps(0x1950A86A20F9469CFC6C) + plain.dumps(1001) + plain.dumps(system)
  names = sorted(pickler.storages)
  parts = [head, code, plain.dumps(names if keys is None else keys)]
  for key in names:
    array = pickler.storages[key]
    parts += [struct.pack("<q" if order == "little" else ">q", array.size), _raw(array, order)]
  return b"".join(parts)


def write(path: Path, value: Any, *, form: str = "zip") -> Path:
  """A file in one of the two forms, "zip" or "stream"."""
  path.write_bytes({"zip": zip_bytes, "stream": stream_bytes}[form](value))
  return path


def _raw(array: np.ndarray, order: str) -> bytes:
  return array.astype(array.dtype.newbyteorder("<" if order == "little" else ">")).tobytes()


def state_dict(tensors: Mapping[str, Any]) -> Call:
  """An OrderedDict with torch's version numbers as an attribute."""
  return Call(ORDERED_DICT, items=tensors, state={"_metadata": Call(ORDERED_DICT)})


def average(tensors: Sequence[Any], *, updates: int = 7) -> Call:
  """A pickled torch_ema.ExponentialMovingAverage."""
  state = {"decay": 0.999, "num_updates": updates, "shadow_params": list(tensors), "collected_params": []}
  return Call(Global("torch_ema.ema", "ExponentialMovingAverage"), state=state, new=True)


def module(tensors: Mapping[str, Any], *, warp_scale: float | None = 2 / 0.24, step: int = 1234) -> Call:
  """A whole pickled pi-GAN generator: nested instances with `_parameters`, `_buffers` and `_modules`."""
  tree: dict[str, Any] = {}
  for name, tensor in tensors.items():
    *parents, leaf = name.split(".")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = tensor
  warp = (
    {}
    if warp_scale is None
    else {"gridwarper": _instance("siren.siren", "UniformBoxWarp", {}, scale_factor=warp_scale)}
  )
  return _instance("generators.generators", "ImplicitGenerator3d", tree, modules={"siren": warp}, step=step, z_dim=256)


def _instance(home: str, name: str, tree: Mapping[str, Any], *, modules: Mapping = {}, **attributes: Any) -> Call:
  leaves = {key: tensor for key, tensor in tree.items() if not isinstance(tensor, dict)}
  inner = {key: branch for key, branch in tree.items() if isinstance(branch, dict)}
  children = {}
  for key, branch in inner.items():
    children[key] = _instance("torch.nn.modules.container", "Sequential", branch)
    children[key].state["_modules"] |= modules.get(key, {})
  hook = Call(Global("torch._utils", "_rebuild_parameter"), None)
  parameters = {key: dataclasses.replace(hook, arguments=(t, True, Call(ORDERED_DICT))) for key, t in leaves.items()}
  state = {
    "training": True,
    "_parameters": {**parameters, "absent": None},
    "_buffers": Call(ORDERED_DICT),
    "_non_persistent_buffers_set": Call(Global("__builtin__", "set"), ([],)),
    "_modules": children,
    "device": Call(Global("torch", "device"), ("cpu",)),
    **attributes,
  }
  return Call(Global(home, name), state=state, new=True)


def siren_tensors(
  rng: np.random.Generator,
  *,
  width: int = 4,
  depth: int = 2,
  latent: int = 3,
  hidden: int = 5,
  n_hidden: int = 2,
  extra: int = 3,
  surface: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
  """A generator's tensors by their published names, in the order of torch's parameters.

  `surface` is (width, blocks) of ShadeGAN's surface network.
  """
  shapes: dict[str, tuple[int, ...]] = {}

  def linear(name: str, inputs: int, outputs: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

  for i in range(depth):
    linear(f"siren.network.{i}.layer", width if i else 3, width)
  linear("siren.final_layer", width, 1)
  linear("siren.color_layer_sine.layer", width + extra, width)
  linear("siren.color_layer_linear.0", width, 3)
  codes, mapping = 2 * (depth + 1) * width, "siren.mapping_network.network"
  for i in range(n_hidden):
    linear(f"{mapping}.{2 * i}", hidden if i else latent, hidden)
  linear(f"{mapping}.{2 * n_hidden}", hidden, codes)
  if surface is not None:
    (w, blocks), net = surface, "surfacenet.network"
    linear("surfacenet.linear", codes, w)
    shapes |= {f"{net}.0.weight": (w, w + 2, 1, 1), f"{net}.2.weight": (w, w, 4, 4), f"{net}.4.weight": (w, w, 3, 3)}
    shapes |= {f"{net}.6.weight": (w, w, 4, 4), f"{net}.7.weight": (w,), f"{net}.7.bias": (w,)}
    shapes |= {f"{net}.9.weight": (w, w, 3, 3)}
    for i in range(10, 10 + blocks):
      h = w // 2
      shapes |= {f"{net}.{i}.gn1.weight": (w,), f"{net}.{i}.gn1.bias": (w,), f"{net}.{i}.conv1.weight": (h, w, 3, 3)}
      shapes |= {f"{net}.{i}.gn2.weight": (h,), f"{net}.{i}.gn2.bias": (h,), f"{net}.{i}.conv2.weight": (h, h, 3, 3)}
      shapes |= {f"{net}.{i}.conv_sc.weight": (h, w, 1, 1), f"{net}.{i}.conv_sc.bias": (h,)}
      w = h
    shapes |= {f"{net}.{10 + blocks}.weight": (w,), f"{net}.{10 + blocks}.bias": (w,)}
    shapes |= {f"{net}.{12 + blocks}.weight": (2, w, 5, 5)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def nerf_tensors(
  rng: np.random.Generator, *, width: int = 8, depth: int = 4, skip: int = 1, codes: int = 5, view: bool = True
) -> dict[str, np.ndarray]:
  """The tensors of GRAF's field by their published names."""
  given, linears = 63 + codes, {}
  for i in range(depth):
    linears[f"pts_linears.{i}"] = (given if i == 0 else width + given * (i == skip + 1), width)
  linears["views_linears.0"] = (width + 27 * view + codes, width // 2)
  linears |= {"feature_linear": (width, width), "alpha_linear": (width, 1), "rgb_linear": (width // 2, 3)}
  named = {f"{name}.weight": (o, i) for name, (i, o) in linears.items()}
  named |= {f"{name}.bias": (o,) for name, (_, o) in linears.items()}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in named.items()}
