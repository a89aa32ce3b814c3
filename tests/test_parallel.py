"""One device, two devices, two processes: the same training to rounding; and the work is really shared."""

import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiler_flags import HURRY
from toy_method import ToyMethod, ToySource, toy_config

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.model import from_workdir
from shapegan_jax.planning.costs import collectives
from shapegan_jax.train import train

TOY = Path(__file__).with_name("toy_method.py")


def test_the_mesh_takes_as_many_devices_as_divide_every_batch():
  assert parallel.make_mesh().shape == {"data": 2, "rays": 1}
  assert parallel.make_mesh([8, 12]).shape == {"data": 2, "rays": 1}
  assert parallel.make_mesh([8, 3]).shape == {"data": 1, "rays": 1}
  assert parallel.make_mesh().axis_types == (jax.sharding.AxisType.Auto,) * 2


@pytest.mark.parametrize(
  ("processes", "local", "batch", "rays", "shape"),
  [
    (1, 8, 4, [1024], (4, 2)),  # rays fill what pictures do not
    (1, 8, 4, [], (4, 1)),  # nothing to share but pictures
    (1, 6, 4, [1024], (4, 1)),  # 3 devices cannot share 1,024 rays
    (4, 8, 16, [1024, 4096], (16, 2)),
    (8, 4, 4, [1024], (4, 8)),  # a picture spans two processes
    (2, 3, 2, [9], (2, 3)),
    (3, 1, 4, [1024], None),
  ],
)
def test_devices_without_pictures_share_rays(processes, local, batch, rays, shape):
  assert parallel.layout(processes, local, [batch, 2 * batch], rays) == shape
  if shape is None:
    return
  used = np.repeat(np.arange(processes), math.prod(shape) // processes).reshape(shape)
  blocks = [parallel.block_of(used, process) for process in range(processes)]
  parts = min(processes, shape[0])
  assert blocks == [(process * parts // processes, parts) for process in range(processes)]


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  with pytest.raises(UserError, match="3 processes cannot share batches of 4, 8"):
    parallel.make_mesh([8, 4])


def test_an_incomplete_description_of_the_processes_is_refused():
  for given in ({"num_processes": 2}, {"coordinator": "localhost:1", "process_id": 0}):
    with pytest.raises(UserError, match="--coordinator"):
      parallel.initialize(**given)


def test_batches_are_cut_by_rows_and_values_replicated():
  mesh = parallel.make_mesh()
  rows = np.arange(8.0).reshape(4, 2)
  batch = parallel.put_batch(mesh, {"image": rows})["image"]
  np.testing.assert_array_equal(batch, rows)
  assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 2), (2, 2)]
  value = parallel.put_replicated(mesh, np.float32(3.0))
  assert value.is_fully_replicated
  assert parallel.local_copy(value).devices() == {jax.devices()[0]}


def test_drawn_latents_are_shared_between_devices_when_asked():
  """`over_batch` inside a program without sharded inputs: each device then multiplies only its half of the rows."""
  mesh = parallel.make_mesh()

  def flops(constrain):
    def compute(key, w):
      z = jax.random.normal(key, (64, 64))
      return jnp.tanh((parallel.over_batch(z) if constrain else z) @ w @ w @ w).sum()

    with jax.set_mesh(mesh):
      return jax.jit(compute).lower(jax.random.key(0), jnp.ones((64, 64))).compile().cost_analysis()["flops"]

  assert flops(constrain=True) < 0.6 * flops(constrain=False)
  odd = jnp.ones((3, 2))
  with jax.set_mesh(mesh):
    assert jax.jit(parallel.over_batch)(odd).shape == (3, 2)  # cannot be cut: left alone
  assert parallel.over_batch(odd) is odd


@pytest.mark.parametrize("shape", [(1, 1), (2, 1)])
def test_parts_in_turn_are_the_whole_in_less_memory(shape, rng):
  """Value and gradient; the gradient is summed over devices after the loop."""
  weights = jnp.asarray(rng.normal(size=(64, 64)), jnp.float32) / 8
  rows = jnp.asarray(rng.normal(size=(16, 256, 64)), jnp.float32)

  def deep(w, x):
    for _ in range(6):
      x = jnp.tanh(x @ w)
    return x.mean((1, 2))

  def loss(w, x, parts):
    return jnp.sum(parallel.in_micro_batches(deep, w, x, count=parts) ** 2)

  mesh = jax.sharding.Mesh(np.array(jax.devices()[: shape[0]]).reshape(shape), ("data", "rays"))
  args = parallel.put_replicated(mesh, weights), parallel.put_batch(mesh, np.asarray(rows))
  step = jax.jit(jax.value_and_grad(loss), static_argnames="parts", out_shardings=parallel.replicated(mesh))
  with jax.set_mesh(mesh):
    whole, parts = (step.lower(*args, parts=n).compile() for n in (1, 8))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole(*args), parts(*args))
  assert parts.memory_analysis().temp_size_in_bytes < 0.5 * whole.memory_analysis().temp_size_in_bytes
  assert not any(inside for _, inside in collectives(parts))


def run_on(devices, workdir, monkeypatch, num_steps=7):
  monkeypatch.setattr(jax, "devices", lambda: devices)
  return train(toy_config(num_steps), workdir, method=ToyMethod(), source=ToySource())


def test_two_devices_train_as_one(tmp_path, monkeypatch):
  devices = jax.devices()
  one, two = (run_on(devices[:n], tmp_path / str(n), monkeypatch) for n in (1, 2))
  assert two.step.sharding.mesh.size == 2
  jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6), one, two)


def start_together(workdir, num_steps, processes, delay=0.0):
  """Processes of one device each, over loopback."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    coordinator = f"127.0.0.1:{free.getsockname()[1]}"
  flags = f"--xla_force_host_platform_device_count=1 {HURRY}"
  environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(TOY.parent.parent)}
  command = [sys.executable, str(TOY), str(workdir), str(num_steps), str(delay), coordinator, str(processes)]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  return [subprocess.Popen([*command, str(i)], env=environment, **pipes) for i in range(processes)]


def close(a, b):
  np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_train_as_one_and_one_goes_on_with_their_checkpoint(tmp_path, processes):
  """To step 5 together; then this process alone to step 8."""
  together = start_together(tmp_path / "many", 5, processes)
  said = [process.communicate(timeout=180)[0] for process in together]
  assert [process.returncode for process in together] == [0] * processes, said
  assert f"devices    {processes} x cpu" in said[0]
  assert "step 5" not in "".join(said[1:])  # one writer
  alone = train(toy_config(5), tmp_path / "one", method=ToyMethod(), source=ToySource())
  shared = from_workdir(tmp_path / "many", ToyMethod(), {})
  assert shared.step == 5
  jax.tree.map(close, shared.params, alone.ema)
  on = train(toy_config(8), tmp_path / "many", method=ToyMethod(), source=ToySource())
  straight = train(toy_config(8), tmp_path / "one", method=ToyMethod(), source=ToySource())
  jax.tree.map(close, on, straight)


def test_a_killed_process_ends_the_run_which_goes_on_from_the_last_checkpoint(tmp_path):
  running = start_together(tmp_path / "run", 400, 2, delay=0.05)
  log = tmp_path / "run" / "metrics.jsonl"
  begun = time.monotonic()
  while not (log.exists() and len(log.read_text().splitlines()) > 5):
    assert time.monotonic() - begun < 120
    assert all(process.poll() is None for process in running)
    time.sleep(0.1)
  running[1].kill()
  said, _ = running[0].communicate(timeout=120)
  running[1].communicate()
  assert running[0].returncode == 1
  assert said.splitlines()[-1].startswith("error: another process of this run is gone")
  saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())
  assert 0 < saved < 400
  resumed = train(toy_config(saved + 3), tmp_path / "run", method=ToyMethod(), source=ToySource())
  jax.tree.map(close, resumed, train(toy_config(saved + 3), tmp_path / "one", method=ToyMethod(), source=ToySource()))
