"""Named streams: a key depends on the run's key, the name and the step, and on nothing else."""

import itertools
import zlib

import jax
import numpy as np

from shapegan_jax.rng import root_key, stream


def bits(key):
  return tuple(jax.random.key_data(key).tolist())


def test_a_stream_is_two_folds(key):
  expected = jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(b"camera")), 7)
  assert bits(stream(key, "camera", 7)) == bits(expected)


def test_jit_and_python_draw_the_same_key(key):
  traced = jax.jit(lambda step: stream(key, "camera", step))
  assert bits(traced(41)) == bits(stream(key, "camera", 41))
  assert bits(traced(np.int32(41))) == bits(stream(key, "camera", 41))


def test_streams_differ_by_name_step_and_run():
  names, steps, seeds = ("latents", "camera", "light", ""), (0, 1, 2**20), (0, 1)
  keys = [bits(stream(root_key(s), n, t)) for s, n, t in itertools.product(seeds, names, steps)]
  assert len(set(keys)) == len(keys)


def test_streams_are_independent_draws():
  """Neighbouring steps and names: correlation of 2,000 normals stays within 5 standard errors of 0."""
  draws = [jax.random.normal(stream(root_key(0), name, step), (2000,)) for name in ("a", "b") for step in (0, 1)]
  correlations = np.corrcoef(np.stack(draws))[np.triu_indices(4, 1)]
  assert np.abs(correlations).max() < 5 / np.sqrt(2000)
