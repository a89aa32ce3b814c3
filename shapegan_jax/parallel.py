"""Devices and processes: one mesh axis `data`; the state is replicated, the batch is cut along its first axis.

The program is written as if for one device. `jit` sees a replicated state and a sharded batch and lets XLA insert the
sums over devices, so batch statistics (top-k, minibatch deviation) are those of the global batch.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from shapegan_jax.errors import UserError
from shapegan_jax.types import PyTree

AXIS = "data"


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
  """Join the other processes of the run; nothing to do for one process.

  Args:
    coordinator: `host:port` of process 0, or "auto" where the cluster tells (Cloud TPU, SLURM, Open MPI, Kubernetes).
    num_processes, process_id: with an explicit coordinator, how many processes there are and which this one is.

  Raises:
    UserError: an incomplete description, or a coordinator that cannot be reached.
  """
  if coordinator is None:
    if num_processes is not None or process_id is not None:
      raise UserError("--num_processes and --process_id need --coordinator=host:port of process 0 as well")
    return
  # Harmless on other platforms: without it several CPU processes cannot reduce.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  if coordinator == "auto":
    described = {}
  elif num_processes is None or process_id is None:
    raise UserError("--coordinator=host:port needs --num_processes and --process_id (from 0) as well")
  else:
    described = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
  try:
    jax.distributed.initialize(**described)
  except (RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(f"--coordinator={coordinator}: could not join the run ({reason}); check address and ids") from error


def enable_compilation_cache() -> None:
  """Keep compiled programs on disk, in the user's cache folder; `JAX_COMPILATION_CACHE_DIR` chooses another place.

  One folder per kind of processor: a home directory may be shared by machines that cannot run each other's programs.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  processor = platform.machine()
  if (cpuinfo := Path("/proc/cpuinfo")).exists():
    features = next((line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    processor += f"-{zlib.crc32(features.encode()):08x}"
  cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
  jax.config.update("jax_compilation_cache_dir", str(cache / "shapegan_jax" / "xla" / processor))


def make_mesh(batch_sizes: Sequence[int] = ()) -> Mesh:
  """The mesh `data` over all devices, or over the largest number of them, equal in every process, that divides every
  (global) batch size.

  Raises:
    UserError: the number of processes does not divide a batch size.
  """
  processes = jax.process_count()
  common = math.gcd(*batch_sizes) if batch_sizes else 0
  if common % processes:
    raise UserError(
      f"{processes} processes cannot share batches of {', '.join(map(str, sorted(set(batch_sizes))))} equally; "
      f"use a number of processes that divides {common}, or other batch sizes"
    )
  per_process = min(len(_devices_of(process)) for process in range(processes))
  while common % (per_process * processes):
    per_process -= 1
  devices = [device for process in range(processes) for device in _devices_of(process)[:per_process]]
  return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _devices_of(process: int) -> list[Any]:
  return [device for device in jax.devices() if device.process_index == process]


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The first axis is cut over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def put_batch(mesh: Mesh, local_rows: PyTree) -> PyTree:
  """Global arrays, sharded by rows, from this process's own rows (numpy). Process p owns the p-th block of rows."""
  sharding = batch_sharded(mesh)
  return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), local_rows)


def put_replicated(mesh: Mesh, values: PyTree) -> PyTree:
  """Global arrays that every device holds, from values that every process knows alike."""
  sharding = replicated(mesh)
  return jax.tree.map(lambda value: jax.make_array_from_process_local_data(sharding, np.asarray(value)), values)


def over_batch(tree: PyTree) -> PyTree:
  """Inside `jit`: cut the first axis of every array over the devices of the mesh in use (none: no effect).

  A method says this of what it draws for a batch (latents, cameras, lights). Without it nothing tells XLA to share the
  generator's work, and every device would render the whole batch.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if AXIS not in mesh.axis_names:
    return tree

  def cut(x):
    divides = x.ndim and x.shape[0] % mesh.shape[AXIS] == 0
    return jax.lax.with_sharding_constraint(x, PartitionSpec(AXIS)) if divides else x

  return jax.tree.map(cut, tree)


def local_copy(tree: PyTree) -> PyTree:
  """A replicated tree as this process's first device holds it (no copy): computing with it needs no other process."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def is_writer() -> bool:
  """True in the one process that writes logs, pictures and configs."""
  return jax.process_index() == 0


class StopSignals:
  """While in use, SIGTERM and the first Ctrl-C only set `asked`; a second Ctrl-C interrupts as always.

  With several processes SIGTERM is left to jax's own notice of pre-emption, on which all processes agree.
  """

  def __init__(self):
    self.asked = False
    self._before: dict[int, Any] = {}

  def __enter__(self) -> StopSignals:
    # Python lets only the main thread handle signals; elsewhere (a notebook's worker) they keep their meaning.
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _ask(self, number: int, unused_frame: Any) -> None:
    self.asked = True
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.default_int_handler)
    # os.write: a print may be what the signal interrupted.
    os.write(2, b"\nasked to stop: saving after this step (Ctrl-C again: stop at once, without saving)\n")


def stop_agreed(step: int, asked: bool) -> bool:
  """Whether the run shall save and stop after `step`.

  One process does what it was asked. Several stop at a step they agree on once SIGTERM has reached any of them.
  """
  if jax.process_count() == 1:
    return asked
  return multihost_utils.reached_preemption_sync_point(step)
