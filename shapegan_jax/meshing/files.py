"""Meshes as files: GLB (glTF 2.0, written here), PLY, OBJ and STL (by trimesh, extra `[mesh]`).

glTF is y up and its units are metres; a world unit becomes one. Colours are stored as displayed (sRGB) in PLY and
OBJ and in textures; the vertex colours of glTF are linear by its specification, so they are converted.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from shapegan_jax.errors import UserError
from shapegan_jax.meshing.meshes import Mesh

ENDINGS = (".glb", ".ply", ".obj", ".stl")

_FLOAT, _UINT32 = 5126, 5125  # glTF's names of types
_VERTICES, _INDICES = 34962, 34963  # and targets of buffer views


def write_mesh(path: Path, mesh: Mesh, *, name: str = "mesh", notes: dict[str, Any] | None = None) -> None:
  """Write `mesh` in the format of the path's ending; `name` and `notes` are stored if the format can (GLB).

  STL holds triangles only; PLY and OBJ normals and vertex colours; GLB either vertex colours or the texture.

  Raises:
    UserError: trimesh is missing (all but GLB).
  """
  if path.suffix.lower() == ".glb":
    path.write_bytes(glb_bytes(mesh, name=name, notes=notes))
    return
  colors = None if mesh.colors is None else np.round(255 * np.clip(mesh.colors, 0, 1)).astype(np.uint8)
  written = load_trimesh().Trimesh(
    mesh.vertices, mesh.faces, vertex_normals=mesh.normals, vertex_colors=colors, process=False
  )
  kind = path.suffix.lower()[1:]
  options = {"stl": {}, "ply": {"vertex_normal": mesh.normals is not None}, "obj": {"include_texture": False}}[kind]
  if kind == "obj":
    options |= {"include_normals": mesh.normals is not None, "include_color": colors is not None, "header": name}
  written.export(str(path), file_type=kind, **options)


def load_trimesh() -> Any:
  """The module, or the error that says how to install it."""
  try:
    import trimesh
  except ImportError:
    raise UserError("mesh: trimesh is not installed; run pip install -e '.[mesh]', or write .glb") from None
  return trimesh


def glb_bytes(mesh: Mesh, *, name: str = "mesh", notes: dict[str, Any] | None = None) -> bytes:
  """`mesh` as a binary glTF 2.0 file: one node, one primitive, a matte material. `notes` become `asset.extras`."""
  views: list[dict[str, Any]] = []
  accessors: list[dict[str, Any]] = []
  binary = bytearray()

  def view(data: bytes, **about: Any) -> int:
    views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data), **about})
    binary.extend(data + b"\0" * (-len(data) % 4))
    return len(views) - 1

  def accessor(values: np.ndarray, kind: str, component: int, target: int, **about: Any) -> int:
    index = view(np.ascontiguousarray(values).tobytes(), target=target)
    count = len(values) if values.ndim == 2 else values.size
    accessors.append({"bufferView": index, "componentType": component, "count": count, "type": kind, **about})
    return len(accessors) - 1

  def attribute(values: np.ndarray, **about: Any) -> int:
    return accessor(values.astype("<f4"), f"VEC{values.shape[-1]}", _FLOAT, _VERTICES, **about)

  vertices = mesh.vertices.astype("<f4")
  box = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
  attributes = {"POSITION": attribute(vertices, **box)}
  if mesh.normals is not None:
    attributes["NORMAL"] = attribute(mesh.normals)
  surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
  if mesh.texture is not None:
    attributes["TEXCOORD_0"] = attribute(mesh.uvs)
    surface["baseColorTexture"] = {"index": 0}
  elif mesh.colors is not None:
    attributes["COLOR_0"] = attribute(screen_to_linear(mesh.colors))
  indices = accessor(mesh.faces.ravel().astype("<u4"), "SCALAR", _UINT32, _INDICES)
  document: dict[str, Any] = {
    "asset": {"version": "2.0", "generator": "shapegan_jax", **({"extras": notes} if notes else {})},
    "scene": 0,
    "scenes": [{"nodes": [0]}],
    "nodes": [{"mesh": 0, "name": name}],
    "meshes": [{"name": name, "primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
    "materials": [{"name": "matte", "pbrMetallicRoughness": surface}],
    "accessors": accessors,
    "bufferViews": views,
  }
  if mesh.texture is not None:
    stream = io.BytesIO()
    Image.fromarray(mesh.texture).save(stream, "PNG")
    document["images"] = [{"bufferView": view(stream.getvalue()), "mimeType": "image/png", "name": "albedo"}]
    document["samplers"] = [{"magFilter": 9729, "minFilter": 9729, "wrapS": 33071, "wrapT": 33071}]  # linear, clamped
    document["textures"] = [{"source": 0, "sampler": 0}]
  document["buffers"] = [{"byteLength": len(binary)}]
  text = json.dumps(document, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 4)
  chunks = b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in ((b"JSON", text), (b"BIN\0", binary)))
  return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def screen_to_linear(colors: Float[np.ndarray, "*b"]) -> Float[np.ndarray, "*b"]:
  """sRGB values in [0, 1] as linear light (IEC 61966-2-1)."""
  colors = np.clip(np.asarray(colors, np.float64), 0.0, 1.0)
  return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
