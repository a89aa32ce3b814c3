"""The full grid and patches of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.pixels import draw_patches, patch_points, pixel_grid, read_patches

ALIGNS = ["corners", "centres", "left"]


def test_corners_are_inclusive_x_runs_right_and_y_up():
  grid = np.asarray(pixel_grid(3, 5))
  assert grid.shape == (3, 5, 2)
  np.testing.assert_array_equal(grid[0, 0], [-1, 1])
  np.testing.assert_array_equal(grid[-1, -1], [1, -1])
  np.testing.assert_array_equal(grid[0, :, 0], [-1, -0.5, 0, 0.5, 1])
  np.testing.assert_array_equal(grid[:, 0, 1], [1, 0, -1])


def test_pixel_centres_average_to_those_of_half_the_resolution():
  fine, coarse = np.asarray(pixel_grid(8, 12, align="centres")), pixel_grid(4, 6, align="centres")
  np.testing.assert_allclose(fine.reshape(4, 2, 6, 2, 2).mean((1, 3)), coarse, atol=1e-7)
  np.testing.assert_allclose(fine[0, 0], [-1 + 1 / 12, 1 - 1 / 8], rtol=1e-6)


def test_left_ends_are_those_of_nerf():
  """Column i is seen in direction (i - n/2) / focal with focal = (n/2) / tan(fov/2), row j in -(j - n/2) / focal."""
  grid = np.asarray(pixel_grid(4, 8, align="left"))
  np.testing.assert_allclose(grid[0, :, 0], (np.arange(8) - 4) / 4, atol=1e-7)
  np.testing.assert_allclose(grid[:, 0, 1], -(np.arange(4) - 2) / 2, atol=1e-7)


@pytest.mark.parametrize("align", ["corners", "centres"])
def test_a_single_pixel_looks_through_the_middle(align):
  np.testing.assert_array_equal(pixel_grid(1, 1, align=align), np.zeros((1, 1, 2)))


@pytest.fixture(scope="module")
def patches():
  rows, columns = draw_patches(jax.random.key(0), 4000, 5, min_scale=jnp.float32(0.3))
  return np.asarray(rows), np.asarray(columns)


def test_patches_are_regular_square_and_inside(patches):
  rows, columns = patches
  assert rows.shape == columns.shape == (4000, 5)
  assert np.abs(rows).max() <= 1
  assert np.abs(columns).max() <= 1
  steps = np.diff(np.stack(patches), axis=-1)
  np.testing.assert_allclose(steps, np.broadcast_to(steps[:1, :, :1], steps.shape), atol=1e-5)


def test_scales_are_uniform_and_places_fill_the_room_that_is_left(patches):
  rows, columns = patches
  scale = (rows[:, -1] - rows[:, 0]) / 2
  assert 0.3 <= scale.min() < 0.305
  assert 0.995 < scale.max() <= 1
  np.testing.assert_allclose([scale.mean(), scale.std()], [0.65, 0.7 / np.sqrt(12)], atol=0.015)
  across, down = (lines.mean(-1) / np.maximum(1 - scale, 1e-3) for lines in (columns, rows))
  for shift in (across[scale < 0.99], down[scale < 0.99]):
    np.testing.assert_allclose([shift.mean(), shift.std()], [0, 1 / np.sqrt(3)], atol=0.04)
  assert abs(np.corrcoef(across, down)[0, 1]) < 0.06


def test_a_patch_at_full_scale_is_the_grid_and_reads_the_picture(rng):
  images = rng.uniform(-1, 1, (2, 6, 6, 3)).astype(np.float32)
  rows, columns = draw_patches(jax.random.key(0), 2, 6, min_scale=1.0)
  np.testing.assert_allclose(read_patches(jnp.asarray(images), rows, columns), images, atol=2e-6)
  for align in ALIGNS:
    points = patch_points(rows, columns, 6, 6, align=align)
    np.testing.assert_allclose(points, np.stack([pixel_grid(6, 6, align=align)] * 2), atol=1e-6)


@pytest.mark.parametrize("align", ALIGNS)
def test_what_is_read_is_what_is_seen(align):
  """A picture whose colours are its pixels' image points, read anywhere, gives the image points of the patch."""
  picture = pixel_grid(7, 9, align=align)[None]
  rows, columns = draw_patches(jax.random.key(1), 1, 4, min_scale=0.2)
  points = patch_points(rows, columns, 7, 9, align=align)
  np.testing.assert_allclose(read_patches(picture, rows, columns), points, atol=1e-5)


def test_reading_is_bilinear(rng):
  images = rng.standard_normal((2, 5, 7, 2)).astype(np.float32)
  rows, columns = rng.uniform(-1, 1, (2, 4)).astype(np.float32), rng.uniform(-1, 1, (2, 3)).astype(np.float32)
  patch = read_patches(*map(jnp.asarray, (images, rows, columns)))
  for b, k, m in np.ndindex(2, 4, 3):
    y, x = (rows[b, k] + 1) / 2 * 4, (columns[b, m] + 1) / 2 * 6
    top, left = int(y), int(x)
    down, right = y - top, x - left
    expected = (
      (1 - down) * (1 - right) * images[b, top, left]
      + (1 - down) * right * images[b, top, left + 1]
      + down * (1 - right) * images[b, top + 1, left]
      + down * right * images[b, top + 1, left + 1]
    )
    np.testing.assert_allclose(patch[b, k, m], expected, atol=1e-5)
