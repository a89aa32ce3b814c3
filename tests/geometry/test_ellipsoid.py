from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.ellipsoid import BoxChange, background_mask, centred_ellipse, centroids, ellipsoid_depth


def box_mask(top, bottom, left, right, size=41):
  """Soft outside of the box, which does not count, and with a hole inside."""
  mask = np.full((size, size), 0.6, np.float32)
  mask[top : bottom + 1, left : right + 1] = 1.0
  mask[(top + bottom) // 2, (left + right) // 2] = 0.0
  return mask


def test_the_cap_is_a_sphere_stretched_to_the_box():
  mask = np.stack([box_mask(4, 24, 10, 22), box_mask(12, 20, 3, 37)])
  depth = np.asarray(jax.jit(ellipsoid_depth)(jnp.asarray(mask)))
  for one, (row, column, height, width) in zip(depth, [(14, 16, 10, 6), (16, 20, 4, 17)], strict=True):
    assert one[row, column] == pytest.approx(0.91, abs=1e-6)
    on_edge = one[[row - height, row + height, row, row], [column, column, column - width, column + width]]
    np.testing.assert_allclose(on_edge, 1.02, atol=1e-5)
    assert one[row - height - 1, column] == one[0, 0] == np.float32(1.02)
    # Half way to the edge the sphere of radius 0.4, whose cap of height 0.11 is 0.2755 wide, is this deep.
    half = 0.4 - math.sqrt(0.4**2 - (math.sqrt(0.4**2 - 0.29**2) / 2) ** 2)
    assert one[row + height // 2, column] == pytest.approx(0.91 + half, abs=1e-5)
    np.testing.assert_allclose(
      one[row - 3 : row + 4, column - 5 : column + 6][:, ::-1][::-1],
      one[row - 3 : row + 4, column - 5 : column + 6],
      atol=1e-6,
    )


def test_boxes_change_by_shares_of_their_sides():
  mask = jnp.asarray(box_mask(10, 22, 8, 32))

  def extent(change):
    depth = np.asarray(ellipsoid_depth(mask, box=change))
    rows, columns = np.flatnonzero((depth < 1.02).any(1)), np.flatnonzero((depth < 1.02).any(0))
    return rows[0], rows[-1], columns[0], columns[-1]

  # The extreme points themselves are as deep as what is outside, up to rounding: one pixel either way.
  def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1)

  close(extent(BoxChange()), (10, 22, 8, 32))
  close(extent(BoxChange(up=0.5)), (4, 22, 8, 32))
  close(extent(BoxChange(down=0.5)), (10, 28, 8, 32))
  close(extent(BoxChange(sides=-0.25, to_bottom=True)), (10, 40, 14, 26))


def test_the_released_code_moves_tall_ellipses_away_from_the_middle():
  mask = jnp.asarray(box_mask(2, 22, 15, 25, 40))
  middles = [
    np.unravel_index(np.argmin(ellipsoid_depth(mask, meaning=meaning)), mask.shape) for meaning in ("paper", "released")
  ]
  assert middles[0] == (12, 20)
  assert middles[1] == (20 + (12 - 20) * 2, 20)


def test_an_empty_mask_is_flat_and_far():
  np.testing.assert_array_equal(ellipsoid_depth(jnp.zeros((2, 9, 9)), far=1.03), np.float32(1.03))
  assert np.all(np.isfinite(ellipsoid_depth(jnp.zeros((9, 9)).at[4, 4].set(1.0))))


def test_a_mask_is_what_differs_from_the_background_but_for_single_pixels(rng):
  image = np.full((2, 20, 20, 3), 0.2, np.float32)
  image[1] = [0.9, -0.3, 0.0]
  image += rng.uniform(-0.02, 0.02, image.shape).astype(np.float32)
  expected = np.zeros((2, 20, 20), np.float32)
  expected[:, 6:20, 5:15] = 1  # down to the last row, as heads are
  image[expected > 0] -= [0.0, 0.0, 0.3]
  image[:, 2, 2] = -1
  found = np.array(background_mask(jnp.asarray(image)))
  corners = np.ix_([0, 1], [6], [5, 14])  # of which fewer than half of the neighbours belong
  assert np.all(found[corners] == 0)
  found[corners] = 1
  np.testing.assert_array_equal(found, expected)
  assert np.all(background_mask(jnp.asarray(image[:1]), color=1.0) == 1)


def test_a_centred_ellipse_has_its_half_axes():
  mask = np.asarray(centred_ellipse(40, (0.5, 0.8)))
  assert mask.sum() == pytest.approx(math.pi * 10 * 16, rel=0.02)
  assert (mask.any(0).sum(), mask.any(1).sum()) == (20, 32)
  np.testing.assert_array_equal(mask, mask[::-1, ::-1])


def test_centroids_are_means_of_places(rng):
  mask = rng.uniform(size=(2, 3, 5, 8)).astype(np.float32)
  y, x = np.meshgrid((np.arange(5) + 0.5) / 5, (np.arange(8) + 0.5) / 8, indexing="ij")
  expected = [[(np.average(x, weights=m), np.average(y, weights=m)) for m in row] for row in mask]
  np.testing.assert_allclose(centroids(jnp.asarray(mask)), expected, atol=1e-6)
  np.testing.assert_array_equal(centroids(jnp.zeros((4, 4))), 0.0)
