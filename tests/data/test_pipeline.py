"""The order of the data and the geometry of its resizing, as laws."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from shapegan_jax.data import images, pipeline
from shapegan_jax.errors import UserError
from shapegan_jax.schedules import Stage, examples_before, stage_at

SIZE = 16


# Batches of 6, 4 and 2 of 10 examples: epochs end inside batches, and both the resolution and the batch size change.
STAGES = ((0, Stage(8, 6)), (5, Stage(16, 4)), (9, Stage(8, 2)))


class Noise:
  """Ten random pictures; the first pixel of example i is grey level i, the last of its row 255 - i, to know it by."""

  def __init__(self, count: int = 10):
    self.pictures = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    self.pictures[:, 0, 0] = np.arange(count)[:, None]
    self.pictures[:, 0, -1] = 255 - np.arange(count)[:, None]
    self.reads = 0

  def __len__(self):
    return len(self.pictures)

  def __getitem__(self, index):
    self.reads += 1
    return {"image": self.pictures[index]}


class Held(Noise):
  def images(self):
    return self.pictures


def run(source, first_step=0, num_steps=12, stages=STAGES, **options):
  options = {"seed": 3, **options}
  loader = pipeline.batches(source, stages, first_step=first_step, num_steps=num_steps, **options)
  return [batch["image"] for batch in loader]


def identities(batch):
  """(index, mirrored) of every picture of a full-size batch of `Noise`, from its first pixel."""
  levels = np.rint((batch[:, 0, 0, 0] + 1) * 127.5).astype(int)
  return np.where(levels > 127, 255 - levels, levels), levels > 127


def test_batches_have_the_stages_shape_range_and_layout():
  got = run(Noise())
  assert [b.shape for b in got] == [(6, 8, 8, 3)] * 5 + [(4, 16, 16, 3)] * 4 + [(2, 8, 8, 3)] * 3
  for batch in got:
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch.min() >= -1
    assert batch.max() <= 1
  np.testing.assert_array_equal(images.to_signed_unit(np.array([0, 255], np.uint8)), [-1, 1])


def test_batches_are_what_their_spec_says():
  for step, batch in enumerate(pipeline.batches(Noise(), STAGES, first_step=0, num_steps=12, seed=3)):
    found = {name: (values.shape, values.dtype) for name, values in batch.items()}
    assert found == pipeline.batch_spec(stage_at(STAGES, step))
  assert pipeline.batch_spec(STAGES[0][1], uses_data=False) == {}


@pytest.mark.parametrize("resize", ["antialias", "legacy"])
def test_processes_together_read_the_batch_that_one_process_reads(resize):
  whole = run(Noise(), resize=resize)
  parts = [run(Noise(), resize=resize, block=(p, 2)) for p in range(2)]
  for batch, *rows in zip(whole, *parts, strict=True):
    np.testing.assert_array_equal(np.concatenate(rows), batch)


def test_a_run_resumed_at_any_step_sees_what_the_uninterrupted_run_sees():
  whole = run(Noise())
  for k in (1, 4, 5, 7, 9, 11):
    for resumed, original in zip(run(Noise(), k, 12 - k), whole[k:], strict=True):
      np.testing.assert_array_equal(resumed, original)


def test_every_example_is_seen_once_in_every_epoch_and_epochs_differ():
  stages = ((0, Stage(SIZE, 6)), (5, Stage(SIZE, 4)))  # 5 * 6 + 5 * 4 = 50 = 5 epochs of 10
  seen = np.concatenate([identities(batch)[0] for batch in run(Noise(), num_steps=10, stages=stages)])
  epochs = seen.reshape(5, 10)
  np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (5, 1)))
  assert len({tuple(epoch) for epoch in epochs}) == 5
  other = np.concatenate([identities(b)[0] for b in run(Noise(), num_steps=10, stages=stages, seed=4)])
  assert not np.array_equal(seen, other)


def test_an_example_and_its_mirror_depend_on_its_number_and_not_on_the_batches():
  one, many = ((0, Stage(SIZE, 2)),), ((0, Stage(SIZE, 6)), (2, Stage(SIZE, 4)))
  a = np.concatenate(run(Noise(), num_steps=10, stages=one))
  b = np.concatenate(run(Noise(), num_steps=4, stages=many))
  np.testing.assert_array_equal(a, b)
  assert [examples_before(many, n) for n in range(6)] == [0, 6, 12, 16, 20, 24]


def test_half_of_the_examples_are_mirrored_and_none_without_flip():
  stages = ((0, Stage(SIZE, 50)),)
  picked, mirrored = identities(np.concatenate(run(Noise(), num_steps=20, stages=stages)))
  assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)
  assert len(set(mirrored[picked == 0])) == 2  # a new coin in each epoch, not one for each picture
  assert not identities(np.concatenate(run(Noise(), num_steps=2, stages=stages, flip=False)))[1].any()


def test_the_order_is_the_same_in_every_version():
  """Golden: a change here gives every resumed run other data. Update it only together with a note to users."""
  order, coins = pipeline.epoch_order(0, 0, 8)
  assert order.tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
  assert coins.astype(int).tolist() == [0, 0, 1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("resize", ["antialias", "legacy"])
def test_memory_never_changes_a_batch_and_spares_the_reads(resize, monkeypatch):
  source = Noise()
  cached = run(source, resize=resize, num_steps=60)
  # 148 examples in all. At most: three looks at the size, and each of ten pictures at two resolutions by both threads.
  assert source.reads <= 3 + 10 * 2 * 2
  held = run(Held(), resize=resize, num_steps=60)
  monkeypatch.setattr(pipeline, "CACHE_BYTES", 0)
  again = run(Noise(), resize=resize, num_steps=60)
  for a, b, c in zip(cached, held, again, strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_impossible_requests_are_refused_before_the_first_batch():
  with pytest.raises(UserError, match="6 cannot be shared by 4 processes"):
    run(Noise(), block=(0, 4))
  with pytest.raises(UserError, match=r"data\.image_size=32"):
    run(Noise(), stages=((0, Stage(32, 2)),))
  with pytest.raises(UserError, match="antialias, legacy"):
    run(Noise(), resize="nearest")
  with pytest.raises(UserError, match="start at 0"):
    run(Noise(), stages=((5, Stage(8, 2)),))
  with pytest.raises(UserError, match="no examples"):
    run(Noise(0))
  assert run(Noise(), first_step=4, num_steps=0) == []
  # A stage that the run will not reach is no reason to refuse it.
  assert len(run(Noise(), num_steps=2, stages=((0, Stage(8, 2)), (2, Stage(64, 2))))) == 2


def corner_grid(n):
  """x of n pixels with both end points, as rays are cast."""
  return np.linspace(-1, 1, n)


@pytest.mark.parametrize(("n", "m"), [(64, 32), (64, 21), (32, 8), (16, 64), (7, 7)])
def test_a_ramp_stays_the_same_ramp_on_the_grid_that_rays_use(n, m):
  def picture(size):
    x, y = np.meshgrid(corner_grid(size), corner_grid(size))
    return np.stack([x, y, 0.3 * x - 0.6 * y + 0.1], -1)

  np.testing.assert_allclose(images.resample(picture(n), m), picture(m), atol=3e-6)


def test_an_area_filter_would_not_keep_the_ramp():
  ramp = np.tile(corner_grid(64).astype(np.float32), (64, 1))
  area = np.asarray(Image.fromarray(ramp).resize((32, 32), Image.Resampling.BOX))
  error_in_pixels = np.abs(area[0] - corner_grid(32)).max() / (2 / 31)
  np.testing.assert_allclose(error_in_pixels, 0.5 * 31 / 63, rtol=1e-3)


def test_shrinking_is_antialiased():
  stripes = np.tile(np.array([0.0, 1.0]), 32)[None, :, None] * np.ones((64, 1, 1))  # the finest pattern there is
  shrunk = images.resample(stripes, 16)
  assert np.ptp(shrunk[:, 1:-1]) < 0.05  # grey, where a nearest or linear pick would be black and white
  assert np.ptp(images.resize_nearest((255 * stripes).astype(np.uint8), 22)) == 255


def test_mirroring_commutes_with_resizing(rng):
  picture = rng.integers(0, 256, (64, 48, 3), np.uint8)
  mirrored = images.resample(picture[:, ::-1] * 1.0, 20)
  np.testing.assert_allclose(mirrored, images.resample(picture * 1.0, 20)[:, ::-1], atol=1e-3)


def test_resize_maps_each_picture_of_a_batch_and_keeps_constants(rng):
  batch = rng.integers(0, 256, (3, 2, 12, 12, 3), np.uint8)
  single = images.resize(batch[1, 0], 8)
  assert single.dtype == np.uint8
  np.testing.assert_array_equal(images.resize(batch, 8)[1, 0], single)
  assert (images.resize(np.full((12, 12, 3), 201, np.uint8), 5) == 201).all()
  assert images.resize(batch, 12) is batch


def test_legacy_is_the_nearest_pixel_of_the_mirrored_picture():
  source = Noise()
  batch = run(source, num_steps=5, stages=((0, Stage(8, 10)),), resize="legacy")[0]
  order, coins = pipeline.epoch_order(3, 0, 10)
  for got, index, mirrored in zip(batch, order, coins, strict=True):
    full = source.pictures[index][:, ::-1] if mirrored else source.pictures[index]
    expected = np.array([[full[(y * 16) // 8, (x * 16) // 8] for x in range(8)] for y in range(8)])
    np.testing.assert_array_equal(got, images.to_signed_unit(expected))
  rows = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None], (10, 7, 3))
  np.testing.assert_array_equal(images.resize_nearest(rows, 4)[:, 0, 0], [0, 2, 5, 7])  # floor(j * 10 / 4)
