from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.metrics import depth_errors
from shapegan_jax.metrics.depth_errors import common_mask, foreground, normals

FOV = math.radians(10.0)
SIZE = 12

side = jax.jit(depth_errors.side)
mad = jax.jit(depth_errors.mad, static_argnames=("fov", "meaning"))


def heads(rng, n=3):
  """Bumpy depth maps under round masks; the background lies at 1.1, beyond everything."""
  y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
  mask = np.stack([x**2 + (y - 0.1 * i) ** 2 < 0.8 for i in range(n)])
  depth = 1 - 0.05 * (1 - x**2 - y**2) + 0.003 * rng.normal(size=(n, SIZE, SIZE))
  return np.where(mask, depth, 1.1).astype(np.float32), mask


def loop_side_and_mad(predicted, true, predicted_mask, true_mask, fov, epsilon):
  """Unsup3D's numbers of one image, pixel by pixel in double precision."""

  def inside(mask, i, j):
    near = [mask[a, b] for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1) if 0 <= a < SIZE and 0 <= b < SIZE]
    return sum(near) / 9 > 0.99

  def normal(depth, i, j):
    if i in (0, SIZE - 1) or j in (0, SIZE - 1):
      return np.array([0.0, 0.0, 1.0])
    focal = (SIZE - 1) / 2 / math.tan(fov / 2)
    centre = (SIZE - 1) / 2

    def point(i, j):
      return float(depth[i, j]) * np.array([(j - centre) / focal, (i - centre) / focal, 1.0])

    product = np.cross(point(i, j + 1) - point(i, j - 1), point(i + 1, j) - point(i - 1, j))
    return product / (np.linalg.norm(product) + epsilon)

  ratios, angles = [], []
  for i in range(SIZE):
    for j in range(SIZE):
      if inside(predicted_mask, i, j) and inside(true_mask, i, j):
        ratios.append(math.log(predicted[i, j]) - math.log(true[i, j]))
        cosine = normal(predicted, i, j) @ normal(true, i, j)
        angles.append(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
  mean = sum(ratios) / len(ratios)
  return math.sqrt(sum((r - mean) ** 2 for r in ratios) / len(ratios)), sum(angles) / len(angles)


@pytest.mark.parametrize("meaning", ["paper", "released"])
@pytest.mark.parametrize("baseline", ["constant", "mean"])
def test_side_and_mad_of_the_baselines_are_those_of_a_loop_over_pixels(rng, baseline, meaning):
  true, mask = heads(rng)
  predicted = np.ones_like(true) if baseline == "constant" else np.broadcast_to(true.mean(0), true.shape)
  predicted_mask = np.ones_like(mask)
  predicted_mask[:, :, :4] = False
  seen = common_mask(predicted_mask, foreground(true))
  np.testing.assert_array_equal(foreground(true), mask)
  # The published epsilon has the more to say the smaller the pixels: this picture is that of 64 pixels' middle.
  fov = FOV if meaning == "paper" else FOV * (SIZE - 1) / 63
  epsilon = 1e-7 if meaning == "released" else 0.0
  expected = [
    loop_side_and_mad(*maps, fov, epsilon) for maps in zip(predicted, true, predicted_mask, mask, strict=True)
  ]
  np.testing.assert_allclose(side(predicted, true, seen), [s for s, _ in expected], rtol=1e-4)
  measured = mad(predicted, true, seen, fov=fov, meaning=meaning)
  np.testing.assert_allclose(measured, [angle for _, angle in expected], atol=0.01)


def test_a_mask_loses_its_outermost_pixels_and_what_the_other_lacks():
  one, other = np.zeros((2, 6, 7), bool)
  one[:, :5] = True  # touches the image's border, which counts as outside
  other[1:, 1:] = True
  expected = np.zeros((6, 7), bool)
  expected[2:5, 2:4] = True
  np.testing.assert_array_equal(common_mask(one, other), expected)


def test_side_does_not_see_a_common_factor_but_sees_relief(rng):
  true, mask = heads(rng)
  predicted = true + 0.01 * rng.normal(size=true.shape).astype(np.float32)
  np.testing.assert_allclose(side(1.7 * predicted, true, mask), side(predicted, true, mask), rtol=1e-4)
  assert np.all(side(1.7 * true, true, mask) < 1e-6)
  flat = 1 + 0.5 * (true - 1)
  deeper = 1 + 2 * (true - 1)
  assert np.all(side(flat, true, mask) > 5e-3)
  assert np.all(side(deeper, true, mask) > 5e-3)


@pytest.mark.parametrize("degrees", [0.0, 0.01, 25.0])
def test_mad_of_a_tilted_plane_is_its_tilt(degrees):
  # The plane z = 1 + x tan(a) seen along (u, v, 1): depth 1 / (1 - u tan(a)). Its normal leans by a.
  u = np.broadcast_to(np.linspace(-1, 1, SIZE) * math.tan(FOV / 2), (1, SIZE, SIZE))
  tilted = jnp.asarray(1 / (1 - u * math.tan(math.radians(degrees))), jnp.float32)
  everywhere = np.ones((1, SIZE, SIZE), bool)
  angle = mad(tilted, jnp.ones_like(tilted), common_mask(everywhere, everywhere), fov=FOV)
  np.testing.assert_allclose(angle, degrees, atol=2e-3)
  if degrees:  # x to the right, z away: where depth grows to the right, the normal (away from us) points to the left
    assert np.all(np.asarray(normals(tilted, fov=FOV))[0, 1:-1, 1:-1, 0] < 0)


def test_equal_maps_are_some_degrees_apart_in_the_released_formula_at_64_pixels():
  depth = jnp.ones((1, 64, 64))
  everywhere = np.ones((1, 64, 64), bool)
  step = 2 * (2 * math.tan(FOV / 2) / 63)  # between the neighbours on both sides
  shortened = step**2 / (step**2 + 1e-7)
  mask = common_mask(everywhere, everywhere)
  released = depth_errors.mad(depth, depth, mask, fov=FOV, meaning="released")
  np.testing.assert_allclose(released, math.degrees(math.acos(shortened**2)), rtol=0.01)
  assert released[0] > 6
  np.testing.assert_allclose(depth_errors.mad(depth, depth, mask, fov=FOV), 0.0, atol=1e-3)


def test_each_image_has_its_own_angle_of_view(rng):
  true, mask = heads(rng, 2)
  fovs = jnp.array([FOV, 1.5 * FOV])
  together = depth_errors.mad(np.ones_like(true), true, mask, fov=fovs)
  apart = [float(mad(np.ones_like(true), true, mask, fov=float(fov))[i]) for i, fov in enumerate(fovs)]
  np.testing.assert_allclose(together, apart, rtol=1e-4)


def test_nothing_to_measure_is_the_worst_answer_and_what_lies_outside_does_not_count(rng):
  true, mask = heads(rng)
  nowhere = np.zeros_like(mask)
  assert np.all(np.isinf(side(true, true, nowhere)))
  assert np.all(mad(true, true, nowhere, fov=FOV) == 180)
  odd = np.where(mask, 1.0, 0.0).astype(np.float32)
  np.testing.assert_array_equal(side(odd, true, mask), side(np.ones_like(odd), true, mask))
