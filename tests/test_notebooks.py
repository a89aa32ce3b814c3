"""The notebooks in launch/colab run from top to bottom with everything small, and keep what they showed."""

from __future__ import annotations

import ast
import base64
import io
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

COLAB = Path(__file__).parents[1] / "launch" / "colab"
NAMES = ("quickstart", "train", "lift", "invert")
PICTURES = ("image/png", "image/gif", "image/jpeg")
MOST_BYTES = 1_000_000
MOST_SECONDS = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """Where executed notebooks go, beside caches that they share."""
  return tmp_path_factory.mktemp("notebooks")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def syntax(cell: nbformat.NotebookNode) -> ast.Module:
  """A cell's Python, of which IPython's own words (!git, %pip) are calls."""
  return ast.parse(TransformerManager().transform_cell(cell.source))


def shown(notebook: nbformat.NotebookNode) -> list[Image.Image]:
  """The pictures that the cells show."""
  outputs = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
  data = [part[kind] for part in outputs for kind in PICTURES if kind in part]
  return [Image.open(io.BytesIO(base64.b64decode(part))) for part in data]


def test_all_notebooks_are_tested():
  assert sorted(path.stem for path in COLAB.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_only_import(name):
  notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
  nbformat.validate(notebook)
  first, settings, *rest = code_cells(notebook)
  assert first.source == code_cells(nbformat.read(COLAB / "quickstart.ipynb", as_version=4))[0].source
  assert settings.metadata.get("tags") == ["parameters"]
  assert 'os.environ.get("SHAPEGAN_PRESET", "heads")' in settings.source
  for cell in (first, settings, *rest):
    for node in ast.walk(syntax(cell)):
      assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), "library code belongs to the package"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_has_pictures_and_is_small(name):
  path = COLAB / f"{name}.ipynb"
  assert path.stat().st_size < MOST_BYTES
  notebook = nbformat.read(path, as_version=4)
  counts = [cell.execution_count for cell in code_cells(notebook)]
  assert counts == list(range(1, len(counts) + 1)), "execute it: python launch/colab/execute.py"
  assert len(shown(notebook)) >= 2
  for text in (output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs):
    assert "/tmp/" not in text
    assert "Traceback" not in text


@pytest.mark.skipif(not os.environ.get("THOROUGH"), reason="minutes; THOROUGH=1 (.ci/run sets it) executes them")
@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_from_top_to_bottom(name, place):
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
    "SHAPEGAN_CACHE": str(place / "cache"),
  }
  command = [sys.executable, str(COLAB / "execute.py"), name, "--preset=smoke", f"--output={place}"]
  done = subprocess.run(
    command, env=environment, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MOST_SECONDS
  )
  assert done.returncode == 0, done.stderr[-4000:]
  ran, kept = (nbformat.read(folder / f"{name}.ipynb", as_version=4) for folder in (place, COLAB))
  assert [cell.source for cell in ran.cells] == [cell.source for cell in kept.cells]
  pictures = shown(ran)
  assert len(pictures) == len(shown(kept))
  assert all(len(set(picture.convert("L").tobytes())) > 8 for picture in pictures), "a picture is empty"
