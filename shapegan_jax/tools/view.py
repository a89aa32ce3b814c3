"""`shapegan view`: a trained generator in the browser."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from pathlib import Path

from shapegan_jax.errors import UserError


def view(
  *,
  model: str,
  port: int = 8080,
  resolution: int = 64,
  host: str = "127.0.0.1",
  codes: Path | None = None,
) -> None:
  """Look at a model in the browser: turn it, walk through its shapes, move the light, export a mesh.

  shapegan view --model=runs/heads

  Open the printed address. Dragging turns the camera, the wheel zooms; pictures are small while something moves and
  full afterwards. With the workdir of a running training, newer checkpoints are shown as they appear.
  Needs the extra [viewer]; exporting meshes needs [mesh]. Ctrl-C ends it.

  Args:
    model: A workdir of a training, an exported .safetensors file, or the name of a model that comes with the package.
    port: Port of the server; 0 lets the system choose.
    resolution: Height and width of a still picture in pixels.
    host: 127.0.0.1 is this machine only; 0.0.0.0 is open to every machine that can reach it (there is no password).
    codes: A codes file of shapegan invert: its shapes are shown instead of those of seeds.
  """
  if not 8 <= resolution <= 1024:
    raise UserError(f"--resolution={resolution}: must be from 8 to 1024; 64 suits a processor, 256 a GPU")
  if importlib.util.find_spec("viser") is None:
    raise UserError("view: viser is not installed; pip install -e '.[viewer]'")
  check_address(host, port)
  # Heavy imports come last.
  from shapegan_jax.model import load
  from shapegan_jax.parallel import enable_compilation_cache
  from shapegan_jax.tools.shared.drawing import check_shape
  from shapegan_jax.tools.shared.instances import read_codes
  from shapegan_jax.tools.viewer.page import Viewer

  enable_compilation_cache()
  loaded = load(model)
  check_shape(loaded, "shapegan view")
  subjects = None if codes is None else read_codes(codes, loaded)
  workdir = Path(model) if Path(model).is_dir() else None
  name = Path(model).stem
  viewer = Viewer(loaded, host=host, port=port, resolution=resolution, name=name, workdir=workdir, subjects=subjects)
  try:
    print(f"{model}: step {loaded.step:,}; open {viewer.address} (the first picture takes some seconds; Ctrl-C ends)")
    threading.Event().wait()
  except KeyboardInterrupt:
    print("\nended", flush=True)
  finally:
    if not viewer.stop():
      # The interpreter would wait for a running compilation. There is nothing to save.
      os._exit(0)


def check_address(host: str, port: int) -> None:
  """Raise unless a server can listen there (viser itself would silently take the next free port)."""
  if not 0 <= port <= 65535:
    raise UserError(f"--port={port}: ports are numbers from 0 to 65535; try --port=8080")
  try:
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
      socket.create_server(address[:2], family=family).close()
  except socket.gaierror as error:
    raise UserError(f"--host={host}: no such host ({error.strerror}); try --host=127.0.0.1") from error
  except OSError as error:
    other = f"--port={port + 1 if 0 < port < 65535 else 8081}"
    raise UserError(
      f"--port={port}: cannot listen on {host}:{port} ({error.strerror}); try {other}, or --port=0 for any free one"
    ) from error
