"""Devices and processes: a mesh with two axes. The batch is sharded over `data`; with more devices than images, the
rays of each image are sharded over `rays`; the state is replicated.

The program is written as if for one device. `jit` receives a replicated state and a sharded batch and lets XLA insert
the reductions over devices, so batch statistics (top-k, minibatch standard deviation) are those of the global batch.
Loops over chunks of work run under `shard_map` instead (`share_rays`, `in_micro_batches`): XLA would reduce gradients
in every iteration of such a loop, where one reduction after it is enough.
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
  """Join the other processes of the run; does nothing for a single process.

  Args:
    coordinator: `host:port` of process 0, or "auto" where jax can detect it (Cloud TPU, SLURM, Open MPI, Kubernetes).
    num_processes, process_id: with an explicit coordinator, the number of processes and the index of this one.
    patience: seconds without a heartbeat after which a process counts as dead and jax terminates all others.

  Raises:
    UserError: an argument is missing, or the coordinator cannot be reached.
  """
  if coordinator is None:
    if num_processes is not None or process_id is not None:
      raise UserError("--num_processes and --process_id need --coordinator=host:port of process 0 as well")
    return
  # CPU processes cannot run collectives without it; it has no effect on other platforms.
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
  """Keep compiled programs in the user's cache folder, or in `JAX_COMPILATION_CACHE_DIR` if that is set.

  There is one folder per kind of processor: machines that cannot run each other's programs may share a home directory.
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
  """The mesh (`data`, `rays`) over as many devices as possible, the same number in every process.

  Args:
    batch_sizes: global batch sizes, all divisible by the length of the axis `data`; if empty, it takes every device.
    ray_counts: rays per image, all divisible by the length of the axis `rays`; if empty, its length is 1.
    most: the largest number of devices to use in each process; None: all.

  Raises:
    UserError: the batches cannot be divided among the processes.
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
  """The lengths of `data` and `rays` that use the most of the `local` devices per process; None if no layout fits.

  A process holds whole images, or a part of a single one.
  """
  for each in range(local, 0, -1):
    data = math.gcd(*batch_sizes, each * processes)
    rays = each * processes // data
    aligned = each % rays == 0 or rays % each == 0
    if aligned and (rays == 1 or ray_counts) and all(count % rays == 0 for count in ray_counts):
      return data, rays
  return None


def mesh_for(stages: Sequence[tuple[int, Any]], *, most: int | None = None) -> Mesh:
  """A mesh that fits all stages ((start, stage), ...). Rays are sharded only if a stage samples them (`samples`)."""
  rays = [stage.resolution**2 for _, stage in stages if hasattr(stage, "samples")]
  return make_mesh([stage.batch_size for _, stage in stages], ray_counts=rays, most=most)


def _devices_of(process: int) -> list[Any]:
  return [device for device in jax.devices() if device.process_index == process]


def rows_of_process(mesh: Mesh) -> tuple[int, int]:
  """(k, n): of every batch, split into n blocks of rows, this process needs the k-th. Processes may share a block."""
  return block_of(np.vectorize(lambda device: device.process_index)(mesh.devices), jax.process_index())


def block_of(processes: np.ndarray, process: int) -> tuple[int, int]:
  """`rows_of_process` for a mesh whose devices belong to the processes `processes` [data, rays]."""
  rows = np.flatnonzero((processes == process).any(1))
  return int(rows[0]) // len(rows), len(processes) // len(rows)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding with a full copy of the array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The sharding that splits the first axis over the mesh axis `data`."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(mesh: Mesh, local_rows: PyTree) -> PyTree:
  """Global arrays, sharded over the batch, from this process's block of rows (numpy; see `rows_of_process`)."""
  sharding, (_, blocks) = batch_sharded(mesh), rows_of_process(mesh)

  def put(rows: np.ndarray) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, rows, (blocks * rows.shape[0], *rows.shape[1:]))

  return jax.tree.map(lambda rows: put(np.asarray(rows)), local_rows)


def put_replicated(mesh: Mesh, values: PyTree) -> PyTree:
  """Global replicated arrays from values that are the same in every process."""
  sharding = replicated(mesh)
  return jax.tree.map(lambda value: jax.make_array_from_process_local_data(sharding, np.asarray(value)), values)


def over_batch(tree: PyTree) -> PyTree:
  """Inside `jit`: shard the first axis of every array over the `data` axis of the current mesh (no mesh: no effect).

  Methods apply this to what they sample for a batch (latents, cameras, lights). Without it XLA has no reason to shard
  the generator's work, and every device would render the whole batch.
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
  """Inside `jit`: `function(params, instances, rays)`, computed by each device for its own images and rays.

  Args:
    function: returns arrays [b, n, ...]; every ray of every instance must be computed independently of the others.
    params: replicated. Their gradient is summed over the devices once, after all chunks.
    instances: arrays [b, ...], one row per image.
    rays: arrays [b, n, ...].
  """
  specs = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(DATA, RAYS)
  b, n = jax.tree.leaves(rays)[0].shape[:2]
  # The arrays before and after are whole images, which XLA must not shard along their rays as well.
  return over_batch(_shared(function, specs, specs[-1], {DATA: b, RAYS: n})(params, instances, over_batch(rays)))


def in_micro_batches(
  function: Callable[[PyTree, PyTree], PyTree], params: PyTree, rows: PyTree, *, count: int
) -> PyTree:
  """`function(params, rows)`, computed in `count` micro-batches so that memory holds one at a time. Its gradient is
  accumulated over them (gradient accumulation); the backward pass recomputes each micro-batch.

  Args:
    function: returns arrays [b, ...]; every row must be computed independently of the others.
    params: their gradient is summed over the micro-batches, and then once over the devices.
    rows: arrays [b, ...]; `count` divides b. Each device splits its own rows, into fewer if it has fewer rows.
  """
  if count == 1:
    return function(params, rows)

  def accumulate(params: PyTree, rows: PyTree) -> PyTree:
    own = math.gcd(count, jax.tree.leaves(rows)[0].shape[0])
    micro_batches = jax.tree.map(lambda x: x.reshape(own, -1, *x.shape[1:]), rows)
    outputs = jax.lax.map(jax.checkpoint(lambda micro_batch: function(params, micro_batch)), micro_batches)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)

  specs = PartitionSpec(), PartitionSpec(DATA)
  return _shared(accumulate, specs, specs[-1], {DATA: jax.tree.leaves(rows)[0].shape[0]})(params, rows)


def _shared(
  function: Callable[..., PyTree], in_specs: tuple[PartitionSpec, ...], out_specs: PartitionSpec, cut: dict[str, int]
) -> Callable[..., PyTree]:
  """`function` under `shard_map`, or unchanged without a mesh or where it does not divide the lengths of `cut`.

  `cut` maps the mesh axes to the lengths of the array axes that they split.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not set(cut) <= set(mesh.axis_names) or any(length % mesh.shape[axis] for axis, length in cut.items()):
    return function
  # `check_vma=False` keeps the sum of a replicated argument's gradient after all loops.
  return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def local_copy(tree: PyTree) -> PyTree:
  """A replicated tree on this process's first device (no copy): computing with it does not involve other processes."""
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def is_writer() -> bool:
  """True in the one process that writes logs, images and configs."""
  return jax.process_index() == 0


class StopSignals:
  """A context manager in which SIGTERM and the first Ctrl-C only set `asked`; a second Ctrl-C interrupts as usual.

  With several processes, SIGTERM is left to jax's preemption notice, on which all processes agree.
  """

  def __init__(self):
    self.asked = False
    self._before: dict[int, Any] = {}

  def __enter__(self) -> StopSignals:
    # Only the main thread may handle signals; in other threads (a notebook's worker) they keep their usual effect.
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
    # os.write, because the signal may have interrupted a print.
    os.write(2, b"\nasked to stop: saving after this step (Ctrl-C again: stop at once, without saving)\n")


def stop_agreed(step: int, asked: bool) -> bool:
  """Whether the run should save and stop after `step`.

  A single process returns `asked`. Several stop at a common step once SIGTERM has reached any of them.
  """
  if jax.process_count() == 1:
    return asked
  return multihost_utils.reached_preemption_sync_point(step)
