"""Devices and processes: a mesh of two axes. The batch is cut over `data`; where there are more devices than pictures,
the rays of each picture are cut over `rays`; the state is replicated.

The program is written as if for one device. `jit` sees a replicated state and a sharded batch and lets XLA insert the
sums over devices, so batch statistics (top-k, minibatch deviation) are those of the global batch. What loops over parts
of its work is handed out device by device instead (`share_rays`, `in_parts`): XLA would sum gradients in every turn of
such a loop, where once at its end does.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from shapegan_jax.errors import UserError
from shapegan_jax.types import PyTree

DATA, RAYS = "data", "rays"


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  patience: int = 60,
) -> None:
  """Join the other processes of the run; nothing to do for one process.

  Args:
    coordinator: `host:port` of process 0, or "auto" where the cluster tells (Cloud TPU, SLURM, Open MPI, Kubernetes).
    num_processes, process_id: with an explicit coordinator, how many processes there are and which this one is.
    patience: seconds without a sign of life after which a process counts as dead and jax ends all others.

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
    jax.distributed.initialize(**described, heartbeat_timeout_seconds=patience)
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


def make_mesh(batch_sizes: Sequence[int] = (), *, ray_counts: Sequence[int] = (), most: int | None = None) -> Mesh:
  """The mesh (`data`, `rays`) over as many devices as possible, equally many in every process.

  Args:
    batch_sizes: global batches, which the axis `data` divides; none: it takes every device.
    ray_counts: rays of a picture, which the axis `rays` divides; none: it is of length 1.
    most: devices of a process that may be taken; None: all.

  Raises:
    UserError: the processes cannot share the batches.
  """
  processes = jax.process_count()
  local = min(len(_devices_of(process)[:most]) for process in range(processes))
  shape = layout(processes, local, batch_sizes, ray_counts)
  if shape is None:
    raise UserError(
      f"{processes} processes cannot share batches of {', '.join(map(str, sorted(set(batch_sizes))))} equally; "
      f"use a number of processes that divides {math.gcd(*batch_sizes)}, or other batch sizes"
    )
  each = math.prod(shape) // processes
  devices = [device for process in range(processes) for device in _devices_of(process)[:each]]
  return Mesh(np.asarray(devices).reshape(shape), (DATA, RAYS), axis_types=(AxisType.Auto, AxisType.Auto))


def layout(
  processes: int, local: int, batch_sizes: Sequence[int], ray_counts: Sequence[int] = ()
) -> tuple[int, int] | None:
  """Lengths of the axes `data` and `rays` for as many as possible of `local` devices in each process (None: for none).

  A process holds whole pictures or a part of one.
  """
  for each in range(local, 0, -1):
    data = math.gcd(*batch_sizes, each * processes)
    rays = each * processes // data
    aligned = each % rays == 0 or rays % each == 0
    if aligned and (rays == 1 or ray_counts) and all(count % rays == 0 for count in ray_counts):
      return data, rays
  return None


def mesh_for(stages: Sequence[tuple[int, Any]], *, most: int | None = None) -> Mesh:
  """The mesh that serves all stages ((start, stage), ...). Rays are shared where a stage says how they are sampled."""
  rays = [stage.resolution**2 for _, stage in stages if hasattr(stage, "samples")]
  return make_mesh([stage.batch_size for _, stage in stages], ray_counts=rays, most=most)


def _devices_of(process: int) -> list[Any]:
  return [device for device in jax.devices() if device.process_index == process]


def rows_of_process(mesh: Mesh) -> tuple[int, int]:
  """(k, n): of every batch, cut into n blocks of rows, this process needs the k-th. Some may need the same."""
  return block_of(np.vectorize(lambda device: device.process_index)(mesh.devices), jax.process_index())


def block_of(processes: np.ndarray, process: int) -> tuple[int, int]:
  """`rows_of_process`, for a mesh whose devices belong to `processes` [data, rays]."""
  rows = np.flatnonzero((processes == process).any(1))
  return int(rows[0]) // len(rows), len(processes) // len(rows)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The first axis is cut over the devices of the axis `data`."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(mesh: Mesh, local_rows: PyTree) -> PyTree:
  """Global arrays, sharded by rows, from this process's block of rows (numpy; `rows_of_process`)."""
  sharding, (_, blocks) = batch_sharded(mesh), rows_of_process(mesh)

  def put(rows: np.ndarray) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, rows, (blocks * rows.shape[0], *rows.shape[1:]))

  return jax.tree.map(lambda rows: put(np.asarray(rows)), local_rows)


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
  if DATA not in mesh.axis_names:
    return tree

  def cut(x):
    divides = x.ndim and x.shape[0] % mesh.shape[DATA] == 0
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA)) if divides else x

  return jax.tree.map(cut, tree)


def share_rays(
  function: Callable[[PyTree, PyTree, PyTree], PyTree], params: PyTree, instances: PyTree, rays: PyTree
) -> PyTree:
  """Inside `jit`: `function(params, instances, rays)`, each device of the mesh in use doing its share.

  Args:
    function: gives arrays [b, n, ...] and treats every ray of every instance alike, whatever b and n are.
    params: every device needs all of them. Their gradient is summed over the devices once, when it is complete.
    instances: arrays [b, ...], one row for each picture.
    rays: arrays [b, n, ...].
  """
  specs = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(DATA, RAYS)
  b, n = jax.tree.leaves(rays)[0].shape[:2]
  # What comes before and after is whole pictures: XLA must not cut these, too, along their rays.
  return over_batch(_shared(function, specs, specs[-1], {DATA: b, RAYS: n})(params, instances, over_batch(rays)))


def in_parts(function: Callable[[PyTree, PyTree], PyTree], params: PyTree, rows: PyTree, *, parts: int) -> PyTree:
  """`function(params, rows)` for `parts` parts of the rows in turn, so that memory holds the work of one: gradient
  accumulation, by the transposition of a loop that computes each part anew on the way back.

  Args:
    function: gives arrays [b, ...] and treats every row alike, whatever b is.
    params: their gradient is summed over parts, and then once over devices.
    rows: arrays [b, ...]; `parts` divides b. Each device cuts its own rows, into fewer parts if it has fewer rows.
  """
  if parts == 1:
    return function(params, rows)

  def accumulate(params: PyTree, rows: PyTree) -> PyTree:
    count = math.gcd(parts, jax.tree.leaves(rows)[0].shape[0])
    cut = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), rows)
    made = jax.lax.map(jax.checkpoint(lambda part: function(params, part)), cut)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), made)

  specs = PartitionSpec(), PartitionSpec(DATA)
  return _shared(accumulate, specs, specs[-1], {DATA: jax.tree.leaves(rows)[0].shape[0]})(params, rows)


def _shared(
  function: Callable[..., PyTree], in_specs: tuple[PartitionSpec, ...], out_specs: PartitionSpec, cut: dict[str, int]
) -> Callable[..., PyTree]:
  """`function` on every device's share, or on everything without a mesh or where it does not divide what is `cut`."""
  mesh = jax.sharding.get_abstract_mesh()
  if not set(cut) <= set(mesh.axis_names) or any(length % mesh.shape[axis] for axis, length in cut.items()):
    return function
  # Without the check, the sum of a replicated argument's gradient stays where it belongs: after all loops.
  return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


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
