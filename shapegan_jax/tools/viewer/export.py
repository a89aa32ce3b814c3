"""The mesh of what the viewer shows, made by `shapegan mesh`."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from shapegan_jax.tools.shared.instances import Instances, save_codes
from shapegan_jax.tools.viewer.panes import Shapes, View, cameras_of, lights_of


def export_mesh(shapes: Shapes, view: View, ending: str, resolution: int) -> bytes:
  """The file that `shapegan mesh` writes for the shape of a view."""
  from shapegan_jax.tools.mesh import mesh

  with tempfile.TemporaryDirectory() as folder:
    model, codes, output = (
      Path(folder) / name for name in ("model.safetensors", "codes.safetensors", f"shape{ending}")
    )
    shapes.model.save(model)
    subject = Instances(shapes.blend(view), cameras_of(shapes.model, view, resolution), lights_of(view), ("shape",))
    save_codes(codes, shapes.model, subject)
    # It prints a path that is about to be deleted.
    with contextlib.redirect_stdout(io.StringIO()):
      mesh(model=str(model), codes=codes, output=output, resolution=resolution)
    return output.read_bytes()
