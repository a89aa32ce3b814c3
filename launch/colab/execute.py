"""Runs the notebooks from top to bottom and stores their outputs.

  python launch/colab/execute.py                             # all of them, in place
  python launch/colab/execute.py train --preset=smoke        # one, with everything small
  python launch/colab/execute.py quickstart --output=/tmp/notebooks

Text and images are kept; progress bars (stderr) and the interactive mesh viewer, whose script alone is 0.7 MB, are not.
Needs the extra [test]. Files written by the notebooks go to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).absolute().parent
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.ipynb")))
MOST_HTML = 50_000  # characters


def execute(notebook: nbformat.NotebookNode, folder: Path, *, timeout: int | None = None) -> None:
  """Run all cells in `folder` and store their outputs in `notebook`. `timeout`: seconds per cell.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  NotebookClient(
    notebook,
    kernel_name="python3",
    timeout=timeout,
    record_timing=False,
    coalesce_streams=True,
    resources={"metadata": {"path": str(folder)}},
  ).execute()


def trim(notebook: nbformat.NotebookNode, folder: Path) -> None:
  """Remove the outputs that are not kept and make paths relative to `folder`."""
  for cell in notebook.cells:
    if cell.cell_type != "code":
      continue
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in cell.outputs:
      if "text" in output:
        output["text"] = output["text"].replace(f"{folder}{os.sep}", "")
      data = output.get("data", {})
      if len(data.get("text/html", "")) > MOST_HTML:
        del data["text/html"]
      if "image/png" in data or "image/gif" in data or "image/jpeg" in data:
        data.pop("text/plain", None)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(NAMES)}; default: all")
  parser.add_argument("--preset", choices=("heads", "smoke"), default="heads", help="the preset that notebooks use")
  parser.add_argument("--output", type=Path, default=HERE, help="output folder; default: in place")
  arguments = parser.parse_args()
  if unknown := sorted(set(arguments.names) - set(NAMES)):
    parser.error(f"{unknown[0]}: no such notebook; there are {', '.join(NAMES)}")
  os.environ["SHAPEGAN_PRESET"] = arguments.preset
  os.environ["PYTHONPATH"] = f"{HERE.parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
  for name in arguments.names or NAMES:
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
      execute(notebook, Path(folder))
    trim(notebook, Path(folder))
    arguments.output.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, arguments.output / f"{name}.ipynb")


if __name__ == "__main__":
  main()
