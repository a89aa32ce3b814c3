from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from toy_method import ToyMethod, ToySource

from shapegan_jax.errors import UserError
from shapegan_jax.evaluation import depth_protocol
from shapegan_jax.evaluation.depth_protocol import (
  DepthProtocol,
  Pairs,
  average_depth,
  estimate_depth,
  generated_pairs,
  train_depth_net,
)
from shapegan_jax.fitting import FitConfig
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Codes, Scene

TINY = DepthProtocol(
  pairs=5, resolution=8, width=4, bottleneck=4, batch_size=3, fit=FitConfig(steps=2, warmup=0, checkpoint_every=1)
)


class Ball(ToyMethod):
  """The toy with all that a method offers."""

  def cameras_at(self, yaw, pitch):
    return orbit_cameras(yaw, pitch, fov=0.2)

  def codes(self, params, latents, *, truncation=1.0):
    return Codes((latents,))


METHOD = Ball()
PARAMS = {"offset": np.float32([0.5, 0.0, -0.5]), "radius": np.float32(0.08)}


def draw(folder, protocol=TINY, params=PARAMS):
  return generated_pairs(METHOD, params, protocol, folder, chunk=2)


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_pairs_are_pictures_with_their_depth_and_can_be_gone_on_with(tmp_path, monkeypatch):
  pairs = draw(tmp_path)
  assert len(pairs) == 5
  assert pairs.images.dtype == np.uint8
  assert not same(list(pairs.images[0]), list(pairs.images[1]))
  # The toy is a ball of radius 0.08 about the origin, white nowhere: colour exactly where there is depth.
  assert pairs.mask.any()
  assert not pairs.mask.all()
  assert np.all(pairs.images[~pairs.mask] == 0)
  assert np.all(pairs.images[pairs.mask].max(-1) > 0)
  assert np.all((pairs.depth[pairs.mask] > 0.919) & (pairs.depth[pairs.mask] < 1.0))
  assert np.all(pairs.depth <= TINY.far)
  # What is there is read, what is missing is drawn as it was, and more pairs begin with the fewer.
  kept = sorted(tmp_path.glob("*.npz"))
  kept[1].unlink()
  drawn = []
  write = depth_protocol._write
  monkeypatch.setattr(depth_protocol, "_write", lambda path, *rest: (drawn.append(path.name), write(path, *rest)))
  more = draw(tmp_path, dataclasses.replace(TINY, pairs=7))
  assert drawn == ["pairs_0001.npz", "pairs_0003.npz"]
  assert same(dataclasses.astuple(more[:5]), dataclasses.astuple(pairs))


def test_each_chunk_is_drawn_by_its_own_key_and_with_the_truncation(tmp_path):
  pairs = draw(tmp_path, dataclasses.replace(TINY, truncation=0.5, seed=4))
  for index in range(3):
    key = stream(root_key(4), "depth_pairs", index)
    latents = 0.5 * jax.random.normal(stream(key, "latents"), (2, 3))
    cameras = METHOD.cameras_at(*(0.2 * jax.random.normal(stream(key, "cameras"), (2, 2))))
    expected = METHOD.render(PARAMS, Scene(latents, cameras), resolution=8)
    found = pairs[2 * index : 2 * index + 2]
    n = len(found)
    np.testing.assert_allclose(found.images, 255 * np.asarray(expected.rgb[:n]), atol=0.51)
    np.testing.assert_allclose(found.depth[found.mask], expected.depth[:n][found.mask], atol=1e-5)


def test_picture_depth_and_mask_are_mirrored_together_every_other_time(rng, monkeypatch):
  pairs = Pairs(
    rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
    rng.uniform(0.9, 1.1, (6, 8, 8)).astype(np.float32),
    rng.random((6, 8, 8)) < 0.5,
  )
  told = {}
  monkeypatch.setattr(
    depth_protocol,
    "fit",
    lambda loss, params, batch_of, *rest, **named: told.update(batch_of=batch_of) or (params, 0.0),
  )
  train_depth_net(pairs, dataclasses.replace(TINY, batch_size=100))
  kinds = []
  for image, depth, mask in zip(*map(np.asarray, told["batch_of"](3)), strict=True):
    found = [
      (i, side)
      for i in range(6)
      for side in (1, -1)
      if np.allclose(image, pairs.images[i][:, ::side] / 127.5 - 1, atol=1e-5)
      and np.array_equal(depth, pairs.depth[i][:, ::side])
      and np.array_equal(mask, pairs.mask[i][:, ::side])
    ]
    assert len(found) == 1
    kinds += found
  assert {i for i, _ in kinds} == set(range(6))
  assert 25 < sum(side == -1 for _, side in kinds) < 75


def test_pairs_of_another_model_are_refused(tmp_path):
  draw(tmp_path)
  with pytest.raises(UserError, match="another model"):
    draw(tmp_path, params={**PARAMS, "radius": np.float32(0.07)})
  with pytest.raises(UserError, match="other settings"):
    draw(tmp_path, dataclasses.replace(TINY, seed=1))
  (tmp_path / "pairs_0000.npz").write_bytes(b"half of it")
  with pytest.raises(UserError, match="remove it"):
    draw(tmp_path)


def test_an_interrupted_fit_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
  pairs = draw(tmp_path / "pairs")
  whole, error = train_depth_net(pairs, TINY)
  start = TINY.network.init_params(jax.random.key(0))
  assert error > 0
  assert jax.tree.structure(start) == jax.tree.structure(whole)
  reads, as_input = [], depth_protocol._as_input

  def stop_at_the_second(images):
    reads.append(images)
    if len(reads) == 2:
      raise KeyboardInterrupt
    return as_input(images)

  with monkeypatch.context() as patched:
    patched.setattr(depth_protocol, "_as_input", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
      train_depth_net(pairs, TINY, tmp_path / "net")
  resumed, resumed_error = train_depth_net(pairs, TINY, tmp_path / "net")
  assert same(whole, resumed)
  assert resumed_error == error
  estimated = estimate_depth(resumed, pairs.images, TINY, batch=3)
  assert estimated.shape == (5, 8, 8)
  assert np.all((estimated > TINY.near) & (estimated < TINY.far))
  np.testing.assert_allclose(estimated, estimate_depth(resumed, pairs.images, TINY), atol=1e-5)
  brighter = dataclasses.replace(pairs, images=255 - pairs.images)
  with pytest.raises(UserError, match="fitted_to"):
    train_depth_net(brighter, TINY, tmp_path / "net")


def test_depth_outside_the_mask_has_no_part_in_the_fit():
  pairs = Pairs.of(ToySource(), 3, far=TINY.far)
  noisy = dataclasses.replace(pairs, depth=np.where(pairs.mask, pairs.depth, 0.9).astype(np.float32))
  assert same(train_depth_net(pairs, TINY), train_depth_net(noisy, TINY))


def test_a_data_set_becomes_pairs_if_it_knows_its_depth():
  source = ToySource()
  pairs = Pairs.of(source, far=1.12)
  assert len(pairs) == len(source)
  assert len(Pairs.of(source, 3, far=1.12)) == 3
  assert np.all(pairs.depth[~pairs.mask] == np.float32(1.12))
  np.testing.assert_array_equal(pairs.depth[0][pairs.mask[0]], source[0]["depth"][source.mask])
  with pytest.raises(UserError, match="no true depth"):
    Pairs.of([{"image": source[0]["image"]}], far=1.12)


def test_the_average_map_is_over_the_masks():
  mask = np.array([[[True, True, False]], [[True, False, False]]])
  depth = np.float32([[[1.0, 1.1, 9.0]], [[0.8, 9.0, 9.0]]])
  pairs = Pairs(np.zeros((2, 1, 3, 3), np.uint8), depth, mask)
  np.testing.assert_allclose(average_depth(pairs), [[0.9, 1.1, (1.0 + 1.1 + 0.8) / 3]], rtol=1e-6)
