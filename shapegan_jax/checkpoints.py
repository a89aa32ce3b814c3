"""What a run leaves on disk for later: its config, its checkpoints, and parameters exported to one file.

A checkpoint is the method's whole state after `step` updates, written by orbax in the background and renamed into place
when complete, so a run killed at any moment leaves only whole checkpoints. Layout: `workdir/config.json`,
`workdir/checkpoints/<step>/`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy

from shapegan_jax.errors import UserError
from shapegan_jax.files import AnyPath, aside, in_bucket, located
from shapegan_jax.sections import FORMAT, check_format, upgraded
from shapegan_jax.types import PyTree

FREE_SETTINGS = ("num_steps", "log_every", "preview", "checkpoint", "evaluation", "data.cache_dir")
"""Settings and sections that may differ when a run is resumed: how long it trains, what it logs, shows and keeps."""


class Checkpoints:
  """The checkpoints of one workdir. Use as a context manager: leaving it waits for the writer."""

  def __init__(self, workdir: str | AnyPath, *, keep: int = 3, asynchronous: bool = True, read_only: bool = False):
    """Args:
    keep: how many of the newest checkpoints stay on disk.
    asynchronous: write in the background while training goes on.
    read_only: never create, delete or tidy anything (a training may be running in the same workdir).
    """
    workdir = located(workdir)
    self.folder = (workdir if in_bucket(workdir) else workdir.absolute()) / "checkpoints"
    # Not orbax's own `read_only`, which warns of everything it then does not do.
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      enable_async_checkpointing=asynchronous and not read_only,
      create=not read_only,
      cleanup_tmp_directories=not read_only,
    )
    nothing = read_only and not self.folder.is_dir()
    self._manager = None if nothing else ocp.CheckpointManager(self.folder, options=options)

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *unused: object) -> None:
    if self._manager is not None:
      self._manager.close()

  def latest_step(self) -> int | None:
    """Updates done at the newest whole checkpoint, or None."""
    return None if self._manager is None else self._manager.latest_step()

  def save(self, step: int, state: PyTree) -> None:
    """Begin writing `state` as checkpoint `step`, unless it is there. On return `state` may be donated."""
    with self._writing():
      if step not in self._manager.all_steps():
        self._manager.save(step, args=ocp.args.StandardSave(state))

  def wait(self) -> None:
    """Return when everything begun is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError, RuntimeError) as error:
      reason = str(error).strip().splitlines()[0][:200]
      raise UserError(f"{self.folder}: cannot write a checkpoint ({reason}); is the disk full?") from error

  def restore(self, abstract: PyTree, step: int | None = None) -> PyTree:
    """The state at `step` (default: newest), with the shapes and shardings of `abstract` (`jax.ShapeDtypeStruct`s).

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    step = self.latest_step() if step is None else step
    if step is None:
      raise UserError(f"{self.folder}: no checkpoint found; train first, or give the workdir of a run")
    try:
      return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
    except Exception as error:
      reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
      raise UserError(
        f"{self.folder / str(step)}: cannot read this checkpoint ({reason[:200]}); "
        "move it away to resume from the one before, or choose another workdir"
      ) from error


def write_json(path: str | AnyPath, content: Any) -> None:
  """A JSON file, whole or not at all."""
  with aside(path) as temporary:
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_config(workdir: str | AnyPath) -> dict[str, Any]:
  """The config that a workdir was made with.

  Raises:
    UserError: the folder is not a workdir.
  """
  path = located(workdir) / "config.json"
  try:
    config = json.loads(path.read_text())
  except OSError as error:
    reason = f"{workdir}: not the workdir of a run ({path.name} is missing)"
    raise UserError(f"{reason}; give the folder that was --workdir in training") from error
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error}); restore the file or choose another workdir") from error
  if not isinstance(config, dict):
    raise UserError(f"{path}: holds no settings; restore the file or choose another workdir")
  return upgraded(config, check_format(config.get("format", 0), path))


def claim_workdir(workdir: str | AnyPath, config: Mapping[str, Any], *, write: bool = True) -> None:
  """Write config.json, unless the workdir holds checkpoints of another config. `FREE_SETTINGS` may differ.

  Raises:
    UserError: the workdir belongs to another config (the message lists every difference), or cannot be written.
  """
  workdir = located(workdir)
  trained = any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*"))
  if trained and (differing := config_differences(read_config(workdir), config)):
    raise UserError(
      f"{workdir}: made with another config: {'; '.join(differing)}; choose another --workdir, or undo these settings"
    )
  if write:
    try:
      write_json(workdir / "config.json", {"format": FORMAT, **config})
    except OSError as error:
      raise UserError(f"--workdir={workdir}: cannot write there ({error.strerror}); choose another folder") from error


def config_differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
  """["name: saved -> wanted", ...], without the `FREE_SETTINGS`. Numbers equal to 1e-6 are equal."""
  saved, wanted = _flat(saved), _flat(json.loads(json.dumps(wanted)))
  free = tuple(f"{name}." for name in FREE_SETTINGS)
  names = [name for name in sorted(saved | wanted) if not f"{name}.".startswith(free)]
  absent = "(not set)"
  return [
    f"{name}: {saved.get(name, absent)} -> {wanted.get(name, absent)}"
    for name in names
    if not _same(saved.get(name, absent), wanted.get(name, absent))
  ]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Nested mappings and lists as {"a.b.0": leaf}."""
  if isinstance(tree, Mapping):
    children = tree.items()
  elif isinstance(tree, list) and tree:
    children = enumerate(tree)
  else:
    return {prefix: tree}
  dot = "." if prefix else ""
  return {name: leaf for key, child in children for name, leaf in _flat(child, f"{prefix}{dot}{key}").items()}


def _same(a: Any, b: Any) -> bool:
  numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
  # A mean fitted to a data set on another machine may differ in its last bits.
  return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12) if numbers else a == b


def export_safetensors(path: str | Path, params: PyTree, metadata: Mapping[str, Any]) -> None:
  """Parameters (nested dicts of arrays) in one file, each named by its path `a/b/c`.

  `metadata` rides along as JSON, with the `format` of its names (`sections.FORMAT`).

  Raises:
    UserError: the file cannot be written; nothing is left behind.
  """
  arrays = {
    jax.tree_util.keystr(key_path, simple=True, separator="/"): np.asarray(leaf, order="C")
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  with aside(path) as temporary:
    # Not save_file, whose files only their owner may read.
    described = {name: json.dumps(x) for name, x in ({"format": FORMAT} | dict(metadata)).items()}
    temporary.write_bytes(safetensors.numpy.save(arrays, described))


def import_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """(params, metadata) as `export_safetensors` was given them; `format` is that of the file, 0 for older ones.

  Raises:
    UserError: no such file, or not one that this package wrote.
  """
  params: dict[str, Any] = {}
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      metadata = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
      for name in file.keys():  # noqa: SIM118 (not a dict)
        *parents, leaf = name.split("/")
        node = params
        for parent in parents:
          node = node.setdefault(parent, {})
        node[leaf] = file.get_tensor(name)
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise UserError(f"{path}: cannot read as exported parameters ({str(error).splitlines()[0]})") from error
  metadata["format"] = check_format(metadata.get("format", 0), path)
  return params, metadata
