from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.metrics import shape
from shapegan_jax.metrics.shape import erode

convexity, depth_deviation = jax.jit(shape.convexity), jax.jit(shape.depth_deviation)
normal_disagreement_deg = jax.jit(shape.normal_disagreement_deg)

GRID = np.asarray(pixel_grid(16, 20))
X, Y = GRID[..., 0], GRID[..., 1]
DISC = X**2 + Y**2 < 0.7


def test_a_bulge_is_convex_and_its_mould_is_hollow():
  dome = np.where(DISC, 1 - 0.1 * np.sqrt(np.maximum(1 - X**2 - Y**2, 0)), 1.12).astype(np.float32)
  values = shape.convexity(np.stack([dome, 2 - dome]), np.stack([DISC, DISC]))
  assert values[0] > 0.03
  np.testing.assert_allclose(values[1], -values[0], rtol=1e-3)


def test_convexity_is_the_coefficient_of_a_paraboloid_whatever_its_tilt_and_mask(rng):
  depth = (0.95 + 0.3 * X - 0.2 * Y + 0.05 * (X**2 + Y**2)).astype(np.float32)
  masks = np.stack([np.ones_like(DISC), DISC, (X > 0.2) & (Y > -0.3)]).astype(np.float32)
  masks = np.concatenate([masks, rng.uniform(size=(1, 16, 20)).astype(np.float32)])
  values = convexity(np.broadcast_to(depth, (4, 16, 20)), masks)
  np.testing.assert_allclose(values, 0.05, rtol=2e-3)


def test_convexity_ignores_what_is_outside_the_mask():
  depth = (1 + 0.05 * (X**2 + Y**2)).astype(np.float32)
  np.testing.assert_allclose(convexity(np.where(DISC, depth, 9.0).astype(np.float32), DISC), 0.05, rtol=2e-3)


def test_depth_deviation_is_the_weighted_standard_deviation(rng):
  depth = rng.normal(1, 0.05, (3, 6, 5)).astype(np.float32)
  mask = rng.uniform(size=(3, 6, 5)) < 0.6
  expected = [np.std(d[m]) for d, m in zip(depth, mask, strict=True)]
  np.testing.assert_allclose(depth_deviation(jnp.array(depth), jnp.array(mask)), expected, rtol=1e-5)
  np.testing.assert_allclose(depth_deviation(np.ones((2, 4, 4), np.float32), np.ones((2, 4, 4), bool)), 0, atol=1e-7)


def tilted(degrees, size):
  angle = np.deg2rad(np.broadcast_to(degrees, size))
  return np.stack([np.sin(angle), np.zeros(size), np.cos(angle)], -1).astype(np.float32)


def test_normal_disagreement_is_the_median_angle():
  for degrees in (0.01, 10.0, 90.0, 170.0):
    angle = normal_disagreement_deg(tilted(0, (6, 6)), tilted(degrees, (6, 6)), np.ones((6, 6), bool))
    np.testing.assert_allclose(angle, degrees, rtol=1e-4)
  ramp = np.arange(36, dtype=np.float32).reshape(6, 6)
  inner = ramp[1:-1, 1:-1]  # the border erodes
  angle = normal_disagreement_deg(tilted(0, (6, 6)), tilted(ramp, (6, 6)), np.ones((6, 6), bool))
  np.testing.assert_allclose(angle, np.median(inner), rtol=1e-4)
  odd = np.zeros((6, 6), bool)
  odd[:5, :5] = True
  angle = normal_disagreement_deg(tilted(0, (6, 6)), tilted(ramp, (6, 6)), odd)
  np.testing.assert_allclose(angle, np.median(ramp[1:4, 1:4]), rtol=1e-4)


def test_normals_at_the_edge_of_the_mask_do_not_count():
  degrees = np.full((6, 6), 80.0)  # 20 pixels of edge, 16 within
  degrees[1:-1, 1:-1] = 10
  angle = normal_disagreement_deg(tilted(0, (6, 6)), tilted(degrees, (6, 6)), np.ones((6, 6), bool))
  np.testing.assert_allclose(angle, 10, rtol=1e-4)


def test_images_are_judged_one_by_one():
  a, b = tilted(0, (2, 6, 6)), tilted(np.array([5.0, 40.0])[:, None, None], (2, 6, 6))
  np.testing.assert_allclose(normal_disagreement_deg(a, b, np.ones((2, 6, 6), bool)), [5, 40], rtol=1e-4)


def test_an_empty_mask_rings_every_alarm_without_a_nan():
  depth, empty = np.ones((2, 5, 5), np.float32), np.zeros((2, 5, 5), bool)
  np.testing.assert_array_equal(convexity(depth, empty), 0)
  np.testing.assert_array_equal(depth_deviation(depth, empty), 0)
  normals = tilted(0, (2, 5, 5))
  np.testing.assert_array_equal(normal_disagreement_deg(normals, normals, empty), 180)


def test_erosion_is_the_least_of_nine_neighbours(rng):
  mask = rng.uniform(size=(2, 7, 6)).astype(np.float32)
  padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
  expected = np.zeros_like(mask)
  for index in np.ndindex(mask.shape):
    n, i, j = index
    expected[index] = padded[n, i : i + 3, j : j + 3].min()
  np.testing.assert_array_equal(erode(mask), expected)
  np.testing.assert_array_equal(erode(mask, pixels=2), erode(expected))
  assert erode(np.ones((5, 5), bool)).sum() == 9
