"""The house has floors: who may import whom, which library lives where, and how long a file may be.

Imports are read from the syntax trees (also those inside functions and under TYPE_CHECKING), so nothing needs to run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

ROOT = Path(__file__).parents[1]
PACKAGE = "shapegan_jax"

GROUND = {"types", "numerics", "errors", "files"}
CLOCKS = {"state", "rng", "schedules"}
MAY_IMPORT = {
  "types": set(),
  "numerics": set(),
  "errors": set(),
  "files": {"errors"},
  "processes": {"errors"},
  "settings": {"errors"},
  "sections": {"errors"},
  "batches": GROUND,
  "state": GROUND,
  "rng": GROUND,
  "schedules": GROUND,
  "geometry": GROUND,
  "rendering": GROUND | {"geometry", "rng"},
  "networks": GROUND,
  "objectives": GROUND | {"geometry"},
  "data": GROUND | {"geometry", "schedules", "sections"},
  "run_settings": {"errors", "sections", "data"},
  "metrics": GROUND | {"geometry"},
  "convert": GROUND | {"networks"},
  "reporting": GROUND | {"geometry"},
  "parallel": GROUND | CLOCKS,
  "checkpoints": GROUND | CLOCKS | {"sections"},
  "fitting": GROUND | CLOCKS | {"parallel", "checkpoints"},
}
LOWER = set(MAY_IMPORT)
MAY_IMPORT |= {
  "methods": LOWER,
  "model": LOWER | {"methods"},
  "programs": LOWER | {"methods"},
}
MODEL = LOWER | {"methods", "model", "programs"}
MAY_IMPORT |= {
  "inversion": MODEL,
  "meshing": MODEL,
  "planning": MODEL,
  "evaluation": MODEL,
  "train": MODEL | {"evaluation", "planning"},
}
MAY_IMPORT |= {
  "main": set(MAY_IMPORT),
  "tools": set(MAY_IMPORT) - {"main"},
  "__init__": {"model", "errors"},
}
"""For each file or folder of the package: which others it may import. Its own folder is always allowed."""

LIVES_IN = {
  "flax": {"networks", "methods"},
  "optax": {"methods", "fitting", "inversion"},
  "orbax": {"checkpoints"},
  "safetensors": {"checkpoints"},
  "grain": {"data"},
  "tensorflow_datasets": {"data"},
  "ml_collections": {"main", "settings"},
  "tyro": {"tools"},
  "viser": {"tools"},
  "tensorflow": set(),
  "torch": set(),
}
"""External libraries with one home. An empty home: never."""

LAZY_TABLES = {"__init__", "methods.catalog", "tools.cli"}
"""Modules that import what a table of their own names, when it is asked for."""

WITHOUT_JAX = ("data.heads_render", "data.heads_model")
"""Modules of worker processes: neither they nor anything they reach may import one of these."""
NEEDS_JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "clu", "chex", "grain", "tensorflow_datasets"}

MOST_LINES, MOST_FILES = 300, 16
"""Of a file, and of modules side by side in a folder."""
FULLER = {"": 20}
"""Folders with more: the package itself, whose modules are its ground floors and its runners."""

FORBIDDEN_NAMES = {"z_vals", "sigma", "sigmas", "rays_d", "rays_o"}
"""Names of other code bases for what is here called t_points, densities, directions, origins."""


def source(path: Path) -> str:
  return path.read_text(encoding="utf-8")


def modules(package: Path) -> dict[str, Path]:
  """Dotted names below the package ("geometry.rays", "geometry", "__init__") and their files."""
  names = {}
  for path in sorted(package.rglob("*.py")):
    parts = path.relative_to(package).with_suffix("").parts
    names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
  return names


def imports(path: Path, name: str) -> Iterator[tuple[int, str]]:
  """(line, absolute dotted name) of every import in a file, `from a import b` as "a.b"."""
  package = [PACKAGE, *name.split(".")]
  if path.name != "__init__.py":
    package = package[:-1]
  elif name == "__init__":
    package = [PACKAGE]
  for node in ast.walk(ast.parse(source(path))):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else []
      base = [*base, *([node.module] if node.module else [])]
      yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
      "importlib.import_module",
      "import_module",
      "__import__",
    ):
      known = node.args and isinstance(node.args[0], ast.Constant)
      yield node.lineno, (node.args[0].value if known else "<computed at run time>")


def floor_of(dotted: str) -> str | None:
  """The file or folder of the package that an import reaches; None for other libraries."""
  if dotted == PACKAGE or dotted == f"{PACKAGE}.__init__":
    return "__init__"
  if not dotted.startswith(PACKAGE + "."):
    return None
  first = dotted.split(".")[1]
  return first if first in MAY_IMPORT else "__init__"


def crossings(package: Path) -> list[str]:
  found = []
  for name, path in modules(package).items():
    floor = name.split(".")[0]
    if floor not in MAY_IMPORT:
      found.append(f"{path}: {floor} has no floor yet: add it to MAY_IMPORT")
      continue
    for line, dotted in imports(path, name):
      target = floor_of(dotted)
      if dotted.startswith("<") and name not in LAZY_TABLES:
        found.append(f"{path}:{line}: the import cannot be read from the source")
      elif target not in (None, floor, *MAY_IMPORT[floor]):
        found.append(f"{path}:{line}: {floor} may not import {target}")
      elif target is None and floor not in LIVES_IN.get(dotted.split(".")[0], {floor}):
        found.append(f"{path}:{line}: {dotted.split('.')[0]} may not be imported in {floor}")
  return found


def reached(package: Path, start: str) -> dict[str, str]:
  """Every external library reached from a module through our own modules, with the file that imports it."""
  files, todo, seen, libraries = modules(package), [start], set(), {}
  while todo:
    name = todo.pop()
    if name in seen or name not in files:
      continue
    seen.add(name)
    todo += ["__init__", *(name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1))]
    for line, dotted in imports(files[name], name):
      if dotted.split(".")[0] != PACKAGE:
        libraries.setdefault(dotted.split(".")[0], f"{files[name]}:{line}")
      elif name != "__init__":  # the facade's imports are lazy: tests/test_entrypoints.py holds that
        inner = dotted.removeprefix(PACKAGE + ".")
        todo += [inner, inner.rpartition(".")[0]]
  return libraries


def test_no_import_crosses_the_floors():
  assert not (found := crossings(ROOT / PACKAGE)), "\n".join(found)


def test_configs_import_only_the_config_library_and_one_another():
  allowed = {"__future__", "ml_collections", "common", "configs", "math", "collections", "typing"}
  for path in sorted((ROOT / "configs").glob("*.py")):
    for line, dotted in imports(path, path.stem):
      assert dotted.split(".")[0] in allowed, f"{path}:{line}: a config may not import {dotted}"


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_worker_modules_never_reach_jax(name):
  assert name in modules(ROOT / PACKAGE), f"{name} is gone: name the module that the worker processes import"
  found = {library: where for library, where in reached(ROOT / PACKAGE, name).items() if library in NEEDS_JAX}
  assert not found, found
  code = f"import {PACKAGE}.{name}, sys; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL).returncode == 0


def test_files_are_a_page_or_two():
  for path in [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "configs").glob("*.py")]:
    lines = len(source(path).splitlines())
    assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines, at most {MOST_LINES}: split it by subject"
  assert len(source(ROOT / PACKAGE / "main.py").splitlines()) < 80


def test_no_folder_is_too_full_to_look_through():
  for folder in [ROOT / PACKAGE, *(path for path in (ROOT / PACKAGE).rglob("*") if path.is_dir())]:
    name = folder.relative_to(ROOT / PACKAGE).as_posix().strip(".")
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= FULLER.get(name, MOST_FILES), f"{name or PACKAGE}: {len(files)} modules side by side"


def circles(package: Path) -> list[str]:
  """Groups of modules that import one another in a circle, wherever in a file the imports stand."""
  files = modules(package)

  def known(dotted: str) -> str | None:
    inner = dotted.removeprefix(PACKAGE + ".")
    while inner and inner not in files:
      inner = inner.rpartition(".")[0]
    return inner or None

  graph = {
    name: {known(d) for _, d in imports(path, name) if d.startswith(PACKAGE + ".")} for name, path in files.items()
  }
  graph = {name: {target for target in targets if target and target != name} for name, targets in graph.items()}

  def reach(start: str) -> set[str]:
    seen, todo = set(), list(graph[start])
    while todo:
      name = todo.pop()
      if name not in seen:
        seen.add(name)
        todo += graph[name]
    return seen

  reached_from = {name: reach(name) for name in graph}
  groups = {
    ", ".join(sorted({name, *(other for other in reached_from[name] if name in reached_from[other])}))
    for name in graph
    if name in reached_from[name]
  }
  return sorted(groups)


def test_no_modules_import_one_another_in_a_circle():
  assert not (found := circles(ROOT / PACKAGE)), "\n".join(found)


def test_no_drawer_for_everything_and_no_star_imports():
  for folder in (PACKAGE, "configs", "tests", "benchmarks"):
    for path in (ROOT / folder).rglob("*.py"):
      assert path.stem not in ("util", "utils", "helpers", "misc"), f"{path}: a helper lives with its subject"
      for line, dotted in imports(path, path.stem):
        assert not dotted.endswith(".*"), f"{path}:{line}: import names, not stars"


def test_every_quantity_has_one_name():
  for path in (ROOT / PACKAGE).rglob("*.py"):
    for node in ast.walk(ast.parse(source(path))):
      name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
      assert name not in FORBIDDEN_NAMES, f"{path}:{node.lineno}: {name} has another name here (CONTRIBUTING.md)"


def test_shapes_are_checked_while_testing():
  # An import hook that misses the package fails silently: every annotation would then be prose.
  from shapegan_jax.numerics import l2_normalize

  with pytest.raises(TypeCheckError):
    l2_normalize(jnp.zeros((3,), jnp.int32))


def test_this_file_sees_what_it_forbids(tmp_path):
  bad = {
    "rendering/volume.py": "from shapegan_jax.networks import siren",
    "networks/siren.py": "def f():\n  from ..geometry import rays",
    "networks/mapping.py": "import shapegan_jax.methods.volume_gan.pigan as p",
    "geometry/rays.py": "from flax import linen",
    "train.py": "import optax",
    "data/named.py": "import tensorflow",
    "model.py": "import importlib\nm = importlib.import_module('ml_collections')",
    "evaluation/evaluate.py": "import importlib\nm = importlib.import_module(name)",
    "convert/graf.py": "import tyro",
    "convert/files.py": "import torch",
    "convert/published.py": "from shapegan_jax.checkpoints import export_safetensors",
    "elsewhere.py": "",
  }
  good = {
    "data/heads_render.py": "import numpy as np\nfrom shapegan_jax.data import heads_model",
    "data/heads_model.py": "from . import tables",
    "data/tables.py": "import jax",
    "methods/pigan.py": "import flax, optax\nfrom shapegan_jax.networks.siren import FilmSiren\nfrom . import base",
    "tools/render.py": "import shapegan_jax.model, tyro",
  }
  package = tmp_path / PACKAGE
  for name, text in (bad | good).items():
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text(text + "\n")
  found = "\n".join(crossings(package))
  assert all(str(package / name) in found for name in bad), found
  assert not any(str(package / name) in found for name in good), found
  assert circles(package) == []
  (package / "networks" / "siren.py").write_text("from shapegan_jax.networks import mapping\n")
  (package / "networks" / "mapping.py").write_text("def f():\n  from shapegan_jax.networks.siren import x\n")
  assert circles(package) == ["networks.mapping, networks.siren"]
  assert "jax" in reached(package, "data.heads_render")
  assert "jax" not in reached(package, "methods.pigan")
