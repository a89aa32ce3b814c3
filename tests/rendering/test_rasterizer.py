from __future__ import annotations

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiler_flags import AS_SHIPPED

from shapegan_jax.geometry.ellipsoid import centred_ellipse, ellipsoid_depth
from shapegan_jax.geometry.relief import ReliefCamera, rotations
from shapegan_jax.rendering.rasterizer import rasterize, warp_depth

SIZE = 12
CAMERA = ReliefCamera(SIZE, fov_deg=20.0, centre=0.95)
SMALL = ReliefCamera(8)
RANGE = {"near": 0.9, "far": 1.1}
# In steps so short that only exact touching can be missed.
exactly = partial(warp_depth, stride=0.05)
BOTH = pytest.mark.parametrize("rasterizer", [exactly, rasterize], ids=["march", "buffer"])


@cache
def drawing(rasterizer, nr_compat):
  """One program for many tests: single samples at the pixels' centres, or as published."""
  return jax.jit(partial(rasterizer, CAMERA, nr_compat=nr_compat, supersample=1 + nr_compat, **RANGE))


def view(*, pitch=0.0, yaw=0.0, roll=0.0, shift=(0.0, 0.0, 0.0)):
  return jnp.array([[pitch, yaw, roll, *shift]])


def smooth(rng, count, size, amplitude=0.02):
  """Sums of a few cosines of at most three half waves."""
  row, column = np.meshgrid(np.linspace(0, np.pi, size), np.linspace(0, np.pi, size), indexing="ij")
  waves, phase = rng.integers(0, 4, (count, 6, 2)), rng.uniform(0, 6, (count, 6, 1, 1))
  heights = amplitude * rng.normal(size=(count, 6, 1, 1))
  a, b = waves[..., 0, None, None], waves[..., 1, None, None]
  return jnp.asarray(1 + np.sum(heights * np.cos(a * row + b * column + phase), 1), jnp.float32)


def rays(positions):
  """[n, n, 3] with z = 1 through pixel positions."""
  at = (np.asarray(positions) - (SIZE - 1) / 2) / CAMERA.focal
  return np.stack(np.broadcast_arrays(at[None, :], at[:, None], 1.0), -1)


def turned_plane(normal, distance, views, positions):
  """(depth, canonical place of what is seen, both in [n, n], 1 at the outermost pixels) of normal . P = distance."""
  rotation, shift, middle = np.asarray(rotations(views)[0]), np.asarray(views[0, 3:]), np.array([0, 0, CAMERA.centre])
  moved = rotation @ normal
  depth = (distance - normal @ middle + moved @ (middle + shift)) / (rays(positions) @ moved)
  points = (depth[..., None] * rays(positions) - shift - middle) @ rotation + middle
  return depth, points[..., :2] / points[..., 2:] / CAMERA.slope


@BOTH
def test_an_unturned_relief_is_itself_and_as_published_lies_half_a_pixel_off(rasterizer, rng):
  depth = jnp.asarray(rng.uniform(0.95, 1.05, (1, SIZE, SIZE)), jnp.float32)
  z, valid = drawing(rasterizer, False)(depth, view())
  np.testing.assert_allclose(z, depth, atol=2e-6)
  assert np.all(valid)
  z, valid = drawing(rasterizer, True)(depth, view())
  # 1 / depth is linear in each triangle; of the samples at 1/4 and 3/4 two lie on the diagonal.
  near = 1 / np.asarray(depth)[0]
  ul, ur, ll, lr = near[:-1, :-1], near[:-1, 1:], near[1:, :-1], near[1:, 1:]
  samples = (ul / 2 + ur / 4 + ll / 4, lr / 2 + ur / 4 + ll / 4, 3 * ur / 4 + ll / 4, ur / 4 + 3 * ll / 4)
  np.testing.assert_allclose(z[0, :-1, :-1], np.mean([1 / s for s in samples], 0), atol=2e-6)
  np.testing.assert_array_equal(valid[0], np.pad(np.ones((SIZE - 1,) * 2, bool), ((0, 1), (0, 1))))
  np.testing.assert_allclose(z[~valid], 1.2)


@BOTH
def test_a_turned_and_shifted_plane_is_a_plane(rasterizer):
  normal, pixels = np.array([0.1, -0.2, 1.0]), np.arange(SIZE)
  depth = jnp.asarray(1 / (rays(pixels) @ normal), jnp.float32)[None]
  views = view(pitch=-0.25, yaw=0.4, roll=0.3, shift=(0.01, -0.02, 0.03))
  z, valid = drawing(rasterizer, False)(depth, views)
  expected, places = turned_plane(normal, 1.0, views, pixels)
  assert 0.5 < valid.mean() < 0.9
  np.testing.assert_array_equal(valid[0], np.abs(places).max(-1) <= 1)
  np.testing.assert_allclose(z[valid], expected[np.asarray(valid[0])], atol=2e-6)
  np.testing.assert_allclose(z[~valid], 1.2)
  z, valid = drawing(rasterizer, True)(depth, views)
  expected, places = turned_plane(normal, 1.0, views, np.arange(2 * SIZE) / 2 + 0.25)
  four = (SIZE, 2, SIZE, 2)
  np.testing.assert_array_equal(valid[0], (np.abs(places).max(-1) <= 1).reshape(four).all((1, 3)))
  np.testing.assert_allclose(z[valid], expected.reshape(four).mean((1, 3))[np.asarray(valid[0])], atol=2e-6)


@BOTH
def test_both_sides_are_seen_and_depths_beyond_the_range_are_clipped(rasterizer):
  draw, flat = drawing(rasterizer, False), jnp.ones((1, SIZE, SIZE))
  z, valid = draw(0.86 * flat, view(yaw=math.pi))
  # 0.86 turned about 0.95 is 1.04: the same square, farther away and smaller.
  places = np.abs(np.linspace(-1, 1, SIZE)) * 1.04 <= 0.86
  np.testing.assert_array_equal(valid[0], places[:, None] & places[None, :])
  np.testing.assert_allclose(z[valid], 1.04, rtol=1e-6)
  z, valid = draw(0.7 * flat, view())
  np.testing.assert_allclose(z, 0.8)
  assert np.all(valid)
  z, valid = draw(1.3 * flat, view())
  np.testing.assert_allclose(z, 1.2)
  assert not np.any(valid)


@BOTH
def test_what_is_nearer_hides_what_is_behind_it(rasterizer):
  depth = jnp.where(jnp.arange(SIZE) < SIZE // 2, 0.9, 1.0)[None, None].repeat(SIZE, 1)
  views, middle = view(yaw=-0.8), (SIZE - 1) / 2
  z, valid = drawing(rasterizer, False)(depth, views)
  layers = []
  for level, first, last in ((0.9, 0, SIZE // 2 - 1), (1.0, SIZE // 2, SIZE - 1)):
    layer, places = turned_plane(np.array([0, 0, 1.0]), level, views, np.arange(SIZE))
    places = places * middle + middle
    inside = np.abs(places - [[[(first + last) / 2, middle]]]) < [[[(last - first) / 2 - 0.1, middle - 0.1]]]
    layers.append(np.where(inside.all(-1), layer, np.inf))
  # The wall between the two layers is seen only where one of them is not.
  both = np.isfinite(layers[0]) & np.isfinite(layers[1])
  assert both.sum() >= 10
  np.testing.assert_allclose(z[0][both], np.minimum(*layers)[both], atol=2e-6)
  assert np.all(valid[0][np.isfinite(np.minimum(*layers))])


def test_marching_finds_what_the_z_buffer_finds(rng):
  size = 24
  camera = ReliefCamera(size)
  caps = ellipsoid_depth(jnp.stack([centred_ellipse(size, radii) for radii in ((0.6, 0.8), (0.4, 0.7))]))
  caps = caps.at[..., :2].set(1.04).at[..., -2:].set(1.04)
  depth = jnp.concatenate([caps, caps, smooth(rng, 4, size)])
  views = jnp.asarray(rng.normal(size=(8, 6)) * [0.15, 0, 0.1, 0.01, 0.01, 0.01], jnp.float32)
  views = views.at[:, 1].set(jnp.array([0.3, -0.6, 0.8, -1.0, 0.2, -0.5, 0.9, -1.0]))
  expected, valid = jax.jit(partial(rasterize, camera, **RANGE))(depth, views)
  found, seen = jax.jit(partial(warp_depth, camera, **RANGE))(depth, views)
  both = np.asarray(valid & seen)
  assert 0.5 < both.mean() < 0.95
  error = np.abs(found - expected)[both]
  assert error.mean() < 1e-4
  assert (error > 1e-4).mean() < 0.01
  assert (valid != seen).mean() < 5e-3


def test_gradients_are_those_of_finite_differences_and_of_the_z_buffer(rng):
  with jax.enable_x64(True):
    depth = jnp.asarray(smooth(rng, 1, 8, 0.004), jnp.float64)
    weights = jnp.asarray(rng.normal(size=(1, 8, 8)))

    def loss(rasterizer, depth, views):
      z, valid = rasterizer(SMALL, depth, views, **RANGE)
      return jnp.sum(jnp.where(valid, weights * z, 0.0))

    marched = jax.jit(jax.value_and_grad(partial(loss, exactly), (0, 1)))
    buffered = jax.jit(jax.value_and_grad(partial(loss, rasterize), (0, 1)))
    views = jnp.asarray(view(pitch=0.1, yaw=0.35, roll=-0.2, shift=(0.004, -0.003, 0.01)), jnp.float64)
    _, (by_depth, by_view) = marched(depth, views)
    for way in range(7):
      # A random direction in depth, then each number of the view.
      d_depth = jnp.asarray(rng.normal(size=depth.shape)) * (way == 0)
      d_view = jnp.asarray((np.arange(6) == way - 1).astype(float)[None])
      ends = [marched(depth + h * d_depth, views + h * d_view)[0] for h in (1e-7, -1e-7)]
      slope = jnp.sum(by_depth * d_depth) + jnp.sum(by_view * d_view)
      np.testing.assert_allclose((ends[0] - ends[1]) / 2e-7, slope, rtol=1e-5, atol=1e-6)
      assert abs(slope) > 1e-3
    # With parts that hide others too.
    rough = jnp.asarray(smooth(rng, 1, 8, 0.03), jnp.float64)
    (a, of_march), (b, of_buffer) = (f(rough, views.at[0, 1].set(0.9)) for f in (marched, buffered))
    np.testing.assert_allclose(a, b, rtol=1e-10)
    for one, other in zip(of_march, of_buffer, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)
      assert np.any(one != 0)


def test_pictures_may_have_any_leading_axes_and_vmap_changes_nothing(rng):
  depth = smooth(rng, 4, 8)
  views = jnp.asarray(rng.normal(size=(4, 6)) * [0.1, 0.4, 0.1, 0.01, 0.01, 0.01], jnp.float32)

  def loss(depth, views):
    z, valid = warp_depth(SMALL, depth, views, supersample=1, **RANGE)
    return jnp.sum(jnp.where(valid, z, 0.0))

  @partial(jax.jit, compiler_options=AS_SHIPPED)
  def both(depth, views):
    nested = (depth.reshape(2, 2, 8, 8), views.reshape(2, 2, 6))
    return jax.value_and_grad(loss)(*nested), jax.vmap(jax.value_and_grad(loss))(depth, views)

  (total, gradient), (mapped, mapped_gradient) = both(depth, views)
  # Alone a picture is marched through in its own steps, to the same triangles.
  np.testing.assert_allclose(mapped.sum(), total, rtol=1e-6)
  np.testing.assert_allclose(mapped_gradient, gradient.reshape(4, 8, 8), atol=1e-3)
