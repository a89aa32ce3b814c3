"""The profile's table: whose operations they are, and how long they took."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.profile import kinds, seconds


class Picture(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(64)(nn.Conv(16, (3, 3))(x).reshape(len(x), -1))


def test_time_is_told_by_network_and_kind(tmp_path, key):
  x = jnp.ones((4, 32, 32, 8))
  params = Picture().init(key, x)
  loss = jax.grad(lambda params, x: (Picture().apply(params, x) ** 2).mean())

  def repeated(params, x):  # what is in the loop counts as often as it runs; the loop itself does not
    return jax.lax.fori_loop(0, 5, lambda _, p: jax.tree.map(lambda a, b: a - b, p, loss(p, x)), params)

  program = jax.jit(repeated).lower(params, x).compile()
  jax.block_until_ready(program(params, x))
  of = kinds(program.as_text())
  loops = re.findall(r"%([\w.]+) = .* while\(", program.as_text())
  assert loops
  assert not set(loops) & set(of)  # they would count what they run once more
  assert {("Picture", "convolutions"), ("Picture", "matrix products")} <= set(of.values())
  with jax.profiler.trace(str(tmp_path)):
    jax.block_until_ready(program(params, x))
  spent, calls = seconds(tmp_path, of)
  for kind in ("convolutions", "matrix products"):
    assert calls["Picture", kind] >= 5
    assert calls["Picture", kind] % 5 == 0
    assert spent["Picture", kind] > 0
