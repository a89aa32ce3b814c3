from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.geometry.relief import ReliefCamera, project, unproject
from shapegan_jax.rendering.rasterizer import warp_depth
from shapegan_jax.rendering.warping import canonical_grid, sample_image, view_grid


def slow_sample(image, grid, method):
  """One place after the other: 0 outside, pixel centres of the outermost pixels at -1 and 1."""
  height, width, channels = image.shape
  answer = np.zeros((*grid.shape[:-1], channels))
  for n in np.ndindex(grid.shape[:-1]):
    column, row = (grid[n] + 1) / 2 * (width - 1, height - 1)
    corners = [(round(row), round(column))]
    if method == "bilinear":
      corners = [(int(np.floor(row)) + i, int(np.floor(column)) + j) for i in (0, 1) for j in (0, 1)]
    for i, j in corners:
      if 0 <= i < height and 0 <= j < width:
        share = 1 if method == "nearest" else (1 - abs(row - i)) * (1 - abs(column - j))
        answer[n] += share * image[i, j]
  return answer


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_places_are_read_as_by_a_loop_and_outside_there_is_nothing(method, rng):
  image = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
  grid = rng.uniform(-1.6, 1.6, (2, 6, 4, 2)).astype(np.float32)
  grid[0, 0, 0], grid[0, 0, 1], grid[0, 0, 2] = (1.0, 1.0), (-1.0, 1.0), (1e6, -1e6)
  found = sample_image(jnp.asarray(image), jnp.asarray(grid), method=method)
  expected = [slow_sample(*pair, method) for pair in zip(image, grid, strict=True)]
  np.testing.assert_allclose(found, expected, atol=2e-6)
  assert np.any(np.all(found == 0, -1))


def test_the_grid_of_a_relief_itself_reads_the_picture_itself(rng):
  camera = ReliefCamera(9)
  image = jnp.asarray(rng.normal(size=(9, 9, 2)), jnp.float32)
  depth = jnp.asarray(rng.uniform(0.9, 1.1, (9, 9)), jnp.float32)
  np.testing.assert_allclose(sample_image(image, project(camera, unproject(camera, depth))), image, atol=1e-5)
  np.testing.assert_allclose(sample_image(image, canonical_grid(camera, depth, jnp.zeros(6))), image, atol=1e-5)


def test_gradients_of_places_and_pictures_are_finite_differences(rng):
  with jax.enable_x64(True):
    image, grid = jnp.asarray(rng.normal(size=(4, 4, 2))), jnp.asarray(rng.uniform(-1.2, 1.2, (5, 5, 2)))
    weights = jnp.asarray(rng.normal(size=(5, 5, 2)))
    value = jax.jit(jax.value_and_grad(lambda i, g: jnp.sum(weights * sample_image(i, g)), (0, 1)))
    _, gradients = value(image, grid)
    for d_image, d_grid in ((1.0, 0.0), (0.0, 1.0)):
      ways = (d_image * jnp.asarray(rng.normal(size=image.shape)), d_grid * jnp.asarray(rng.normal(size=grid.shape)))
      ends = [value(image + h * ways[0], grid + h * ways[1])[0] for h in (1e-7, -1e-7)]
      slope = sum(jnp.sum(a * b) for a, b in zip(gradients, ways, strict=True))
      np.testing.assert_allclose((ends[0] - ends[1]) / 2e-7, slope, rtol=1e-5)


def test_a_view_reads_the_canonical_picture_where_that_shows_the_same_point(rng):
  """On a plane, which hides nothing: the two grids are each other's inverses."""
  camera = ReliefCamera(33)
  lines = jnp.linspace(-1, 1, 33)
  depth = 1.0 + 0.02 * lines[None, :, None] - 0.01 * lines[None, None, :]
  depth = 1 / depth  # a plane: 1 / depth is linear in the picture
  views = jnp.array([[0.1, 0.3, 0.2, 0.01, -0.01, 0.02]])
  in_view, valid = warp_depth(camera, depth, views, near=0.9, far=1.1, supersample=1)
  back, forth = canonical_grid(camera, in_view, views), view_grid(camera, depth, views)
  # Bilinear reading of a projective map errs by its second difference, 1e-3 of a picture here.
  again = sample_image(forth, back)
  pixels = jnp.stack(jnp.meshgrid(lines, lines, indexing="xy"), -1)[None]
  inner = np.asarray(valid & (jnp.abs(back).max(-1) < 0.9))
  assert inner.mean() > 0.5
  np.testing.assert_allclose(again[inner], pixels[inner], atol=1e-3)
  assert np.abs(back - pixels)[inner].max() > 0.1
