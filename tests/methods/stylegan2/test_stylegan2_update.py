"""Steps of StyleGAN2's training: what is due when, and what moves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from configs import common, stylegan2
from shapegan_jax.methods.catalog import build


def test_penalties_come_when_they_are_due_and_everything_moves(rng):
  method = build(common.shrink(stylegan2.get_config("smoke")).to_dict())
  state = jax.jit(method.init)(jax.random.key(0))
  update = jax.jit(method.update, static_argnames="stage")
  image = jnp.asarray(rng.uniform(-1, 1, (4, 8, 8, 3)), jnp.float32)
  seen = []
  before = state
  for step in range(5):
    stage, anneals = method.plan(step)
    anneals = {name: jnp.float32(value) for name, value in anneals.items()}
    after, metrics = update(before, {"image": image}, jax.random.key(0), anneals, stage=stage)
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    counts = (int(after.disc_opt.count), int(after.gen_opt.count))
    seen.append((float(metrics["disc/r1"]) > 0, float(metrics["gen/path"]) > 0, *counts))
    before = after
  assert seen == [
    (True, True, 2, 2), (False, False, 3, 3), (False, False, 4, 4), (False, False, 5, 5), (False, True, 6, 7)
  ]  # fmt: skip
  for name in ("gen_params", "disc_params", "ema_params", "w_mean", "path_mean"):
    for a, b in zip(*(jax.tree.leaves(getattr(s, name)) for s in (state, after)), strict=True):
      assert (a != b).any(), name
  for a, b in zip(jax.tree.leaves(state.noise), jax.tree.leaves(after.noise), strict=True):
    np.testing.assert_array_equal(a, b)
