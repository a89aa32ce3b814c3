from __future__ import annotations

import numpy as np

from shapegan_jax.geometry.pixels import pixel_grid


def test_corners_are_inclusive_x_runs_right_and_y_up():
  grid = np.asarray(pixel_grid(3, 5))
  assert grid.shape == (3, 5, 2)
  np.testing.assert_array_equal(grid[0, 0], [-1, 1])
  np.testing.assert_array_equal(grid[-1, -1], [1, -1])
  np.testing.assert_array_equal(grid[0, :, 0], [-1, -0.5, 0, 0.5, 1])
  np.testing.assert_array_equal(grid[:, 0, 1], [1, 0, -1])


def test_pixel_centres_average_to_those_of_half_the_resolution():
  fine, coarse = np.asarray(pixel_grid(8, 12, corners=False)), pixel_grid(4, 6, corners=False)
  np.testing.assert_allclose(fine.reshape(4, 2, 6, 2, 2).mean((1, 3)), coarse, atol=1e-7)
  np.testing.assert_allclose(fine[0, 0], [-1 + 1 / 12, 1 - 1 / 8], rtol=1e-6)


def test_a_single_pixel_looks_through_the_middle():
  for corners in (True, False):
    np.testing.assert_array_equal(pixel_grid(1, 1, corners=corners), np.zeros((1, 1, 2)))
