"""One device, two devices, two processes: the same training to rounding; and the work is really shared."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import ToyMethod, ToySource, toy_config

from shapegan_jax import parallel
from shapegan_jax.errors import UserError
from shapegan_jax.model import from_workdir
from shapegan_jax.train import train

TOY = Path(__file__).with_name("toy_method.py")


def test_the_mesh_takes_as_many_devices_as_divide_every_batch():
  assert parallel.make_mesh().shape == {"data": 2}
  assert parallel.make_mesh([8, 12]).shape == {"data": 2}
  assert parallel.make_mesh([8, 3]).shape == {"data": 1}
  assert parallel.make_mesh().axis_types == (jax.sharding.AxisType.Auto,)


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


def run_on(devices, workdir, monkeypatch, num_steps=7):
  monkeypatch.setattr(jax, "devices", lambda: devices)
  return train(toy_config(num_steps), workdir, method=ToyMethod(), source=ToySource())


def test_two_devices_train_as_one(tmp_path, monkeypatch):
  devices = jax.devices()
  one, two = (run_on(devices[:n], tmp_path / str(n), monkeypatch) for n in (1, 2))
  assert two.step.sharding.mesh.size == 2
  jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6), one, two)


def test_two_processes_train_as_one_and_one_goes_on_with_their_checkpoint(tmp_path):
  """Two processes of one device each, over loopback, to step 5; then this process alone to step 8."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    coordinator = f"127.0.0.1:{free.getsockname()[1]}"
  environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
  environment["PYTHONPATH"] = str(TOY.parent.parent)
  together = [
    subprocess.Popen(
      [sys.executable, str(TOY), str(tmp_path / "two"), "5", "0", coordinator, "2", str(i)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  said = [process.communicate(timeout=120)[0] for process in together]
  assert [process.returncode for process in together] == [0, 0], said
  assert "devices    2 x cpu" in said[0]
  assert "step 5" not in said[1]  # one writer
  alone = train(toy_config(5), tmp_path / "one", method=ToyMethod(), source=ToySource())
  shared = from_workdir(tmp_path / "two", ToyMethod(), {})
  assert shared.step == 5
  close = lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6)  # noqa: E731
  jax.tree.map(close, shared.params, alone.ema)
  on = train(toy_config(8), tmp_path / "two", method=ToyMethod(), source=ToySource())
  straight = train(toy_config(8), tmp_path / "one", method=ToyMethod(), source=ToySource())
  jax.tree.map(close, on, straight)
