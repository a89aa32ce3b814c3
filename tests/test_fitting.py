"""Fitting a network: it finds a known minimum, and a fit that was stopped resumes to the same bits."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax import UserError
from shapegan_jax.fitting import FitConfig, fit

SLOPE = jnp.array([2.0, -1.0])


def batch_of(step):
  x = jax.random.normal(jax.random.key(step), (8, 2))
  return x, x @ SLOPE


def loss(params, batch):
  x, y = batch
  return jnp.mean((x @ params["slope"] - y) ** 2)


def test_a_line_is_found():
  fitted, late = fit(loss, {"slope": jnp.zeros(2)}, batch_of, FitConfig(steps=200, rate=0.1, warmup=5))
  np.testing.assert_allclose(fitted["slope"], SLOPE, atol=1e-3)
  assert late < 1e-4


class Stopped(Exception):
  pass


def test_a_fit_that_stops_goes_on_to_the_same_bits(tmp_path):
  config, seen = FitConfig(steps=12, rate=0.1, warmup=2, checkpoint_every=4), []

  def stopping(step):
    seen.append(step)
    if step == 9 and len(seen) == 10:
      raise Stopped
    return batch_of(step)

  with pytest.raises(Stopped):
    fit(loss, {"slope": jnp.zeros(2)}, stopping, config, workdir=tmp_path)
  resumed = fit(loss, {"slope": jnp.ones(2)}, stopping, config, workdir=tmp_path)
  assert seen == [*range(10), *range(8, 12)]
  whole = fit(loss, {"slope": jnp.zeros(2)}, batch_of, config)
  np.testing.assert_array_equal(resumed[0]["slope"], whole[0]["slope"])
  assert resumed[1] == whole[1]
  again = fit(loss, {"slope": jnp.zeros(2)}, stopping, config, workdir=tmp_path)
  np.testing.assert_array_equal(again[0]["slope"], whole[0]["slope"])
  assert len(seen) == 14
  with pytest.raises(UserError, match="rate"):
    fit(loss, {"slope": jnp.zeros(2)}, batch_of, dataclasses.replace(config, rate=0.2), workdir=tmp_path)
  with pytest.raises(UserError, match="model"):
    fit(loss, {"slope": jnp.zeros(2)}, batch_of, config, workdir=tmp_path, identity={"model": "another"})


def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path):
  def broken(params, batch):
    return jnp.log(-loss(params, batch))

  with pytest.raises(UserError, match="no longer finite"):
    fit(broken, {"slope": jnp.zeros(2)}, batch_of, FitConfig(steps=4, checkpoint_every=2), workdir=tmp_path)
