"""GRAF's field against the concatenations of the paper written out in numpy, and the laws it must obey."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks.nerf import ConditionalNerf, encode
from shapegan_jax.networks.siren import SphereStart

SMALL = {"width": 8, "depth": 4, "skip": 1, "position_bands": 3, "direction_bands": 2, "shape_dim": 5}


def small(key, rng, **settings):
  """A narrow field: (field, variables, points [4, 3, 3], viewdirs [4, 3], shape code, appearance code)."""
  field = ConditionalNerf(**(SMALL | {"appearance_dim": 2} | settings))
  viewdirs = rng.standard_normal((4, 3))
  arrays = (
    rng.uniform(-1, 1, (4, 3, 3)),
    viewdirs / np.linalg.norm(viewdirs, axis=-1, keepdims=True),
    rng.standard_normal(field.shape_dim),
    rng.standard_normal(field.appearance_dim),
  )
  return field, field.init_params(key), *(jnp.asarray(x, jnp.float32) for x in arrays)


def answer(field, *given):
  """Compiled as one: op by op takes several seconds."""
  return jax.jit(field.apply)(*given)


def encoded(x, bands):
  """One vector's encoding, number by number."""
  numbers = list(x)
  for octave in range(bands):
    numbers += [np.sin(2**octave * c) for c in x] + [np.cos(2**octave * c) for c in x]
  return np.array(numbers)


def test_encoding_is_the_vector_then_sine_and_cosine_of_each_octave(rng):
  vectors = rng.uniform(-2, 2, (2, 3)).astype(np.float32)
  np.testing.assert_allclose(encode(jnp.asarray(vectors), 4), [encoded(v, 4) for v in vectors], atol=1e-5)
  np.testing.assert_array_equal(encode(jnp.asarray(vectors), 0), vectors)


def test_parameter_count_is_the_published_one(key):
  shapes = jax.eval_shape(ConditionalNerf().init_params, key)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 677_764


@pytest.mark.parametrize("view", [True, False])
def test_the_folded_layers_are_the_concatenated_ones(key, rng, view):
  field, variables, points, viewdirs, shape, appearance = small(key, rng, view_condition=view, warp_scale=2.0)
  w = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
  raw, rgb = answer(field, variables, points, viewdirs, shape, appearance)

  def linear(name, *parts):
    return np.concatenate(parts) @ w[name]["kernel"] + w[name]["bias"]

  for ray, sample in np.ndindex(4, 3):
    given = np.concatenate([encoded(2 * np.asarray(points[ray, sample], np.float64), 3), shape])
    x = np.maximum(linear("trunk_0", given), 0)
    x = np.maximum(linear("trunk_1", x), 0)
    x = np.maximum(linear("trunk_2", given, x), 0)
    x = np.maximum(linear("trunk_3", x), 0)
    np.testing.assert_allclose(raw[ray, sample], linear("density_head", x)[0], atol=1e-5)
    directions = [encoded(np.asarray(viewdirs[ray], np.float64), 2)] if view else []
    x = np.maximum(linear("color_hidden", linear("color_features", x), *directions, appearance), 0)
    np.testing.assert_allclose(rgb[ray, sample], 1 / (1 + np.exp(-linear("color_head", x))), atol=1e-5)


def test_density_depends_on_the_shape_code_alone_and_colour_on_all(key, rng):
  field, variables, points, viewdirs, shape, appearance = small(key, rng)

  def sums(*given):
    raw, rgb = field.apply(variables, points, *given)
    return raw.sum(), rgb.sum()

  by_density, by_color = jax.jit(jax.jacrev(sums, (0, 1, 2)))(viewdirs, shape, appearance)
  assert [bool(np.any(slope)) for slope in by_density] == [False, True, False]
  assert all(np.any(slope) for slope in by_color)


def test_the_authors_frame_counts_azimuth_from_x_and_elevation_up_z(key, rng):
  """A camera at our yaw and pitch is at azimuth front + yaw and elevation pitch there."""
  field, variables, _, _, shape, appearance = small(key, rng)
  yaw, pitch = np.array([0.3, -1.2, 2.5]), np.array([0.2, -0.4, 1.0])
  azimuth = yaw + np.radians(35.0)
  ours = np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], -1)
  theirs = np.stack([np.cos(azimuth) * np.cos(pitch), np.sin(azimuth) * np.cos(pitch), np.sin(pitch)], -1)
  turned = field.clone(z_up=True, front_deg=35.0)
  for a, b in zip(
    answer(turned, variables, *(jnp.asarray(x, jnp.float32) for x in (ours[:, None], -ours)), shape, appearance),
    answer(field, variables, *(jnp.asarray(x, jnp.float32) for x in (theirs[:, None], -theirs)), shape, appearance),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_fast_sine_changes_little(key, rng):
  field, variables, *given = small(key, rng, position_bands=6)
  fast, exact = (answer(field.clone(sine=sine), variables, *given) for sine in ("fast", "exact"))
  for a, b in zip(fast, exact, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  assert np.any(fast[0] != exact[0])


def test_sphere_start_is_a_ball_of_its_radius_in_warped_coordinates(key, rng):
  start = SphereStart(radius=0.75, sharpness=80.0, gain=0.0)
  field, variables, points, _, shape, _ = small(key, rng, sphere_start=start, warp_scale=4.0)
  surface = points.reshape(-1, 3)
  surface = surface / jnp.linalg.norm(surface, axis=-1, keepdims=True) * (0.75 / 4)

  def density(x, start=start):
    return field.clone(sphere_start=start).apply(variables, x, shape, method="density")[0]

  raw, slope = jax.jit(lambda x: (density(x), jax.grad(lambda y: density(y).sum())(x)))(surface)
  np.testing.assert_allclose(raw, 0, atol=1e-3)
  np.testing.assert_allclose(slope, -80 * 4 * surface / (0.75 / 4), rtol=1e-3, atol=1e-2)
  added = SphereStart(sharpness=0.0, gain=20.0)
  added, plain = jax.jit(lambda x: (density(x, added), density(x, None)))(surface)
  np.testing.assert_allclose(added, 20 * plain, atol=1e-4)


def test_instances_under_vmap_are_instances_one_by_one(key, rng):
  field, variables, points, viewdirs, shape, appearance = small(key, rng)
  codes = jnp.stack([shape, -shape]), jnp.stack([appearance, 2 * appearance])
  together = jax.jit(jax.vmap(lambda s, a: field.apply(variables, points, viewdirs, s, a)))(*codes)
  for i in range(2):
    alone = answer(field, variables, points, viewdirs, codes[0][i], codes[1][i])
    for a, b in zip(together, alone, strict=True):
      np.testing.assert_allclose(a[i], b, atol=1e-5)


def test_weights_start_uniform_within_one_over_the_root_of_the_inputs(key):
  params = ConditionalNerf(width=64, depth=3, skip=0).init_params(key)["params"]
  inputs = {"trunk_0": 63 + 128, "trunk_1": 64 + 63 + 128, "trunk_2": 64, "color_hidden": 64 + 27 + 128}
  for name, n in inputs.items():
    kernel = np.asarray(params[name]["kernel"])
    assert kernel.shape[0] == n
    for array in (kernel, np.asarray(params[name]["bias"])):
      assert 0.9 / np.sqrt(n) < np.abs(array).max() <= 1 / np.sqrt(n)
