"""The FiLM-SIREN against the published code's numbers, a numpy loop, and the laws it must obey."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks.siren import FilmSiren, SphereStart

GOLDENS = Path(__file__).parents[1] / "goldens"


def _golden(name):
  """(variables of the field, expected arrays) of a fixture, stored under `field/...` and `expected/...`."""
  params, expected = {}, {}
  for key, value in np.load(GOLDENS / f"{name}.npz").items():
    part, *path = key.split("/")
    if part == "expected":
      expected[path[0]] = jnp.asarray(value)
    else:
      params.setdefault(path[0], {})[path[1]] = jnp.asarray(value)
  return {"params": params}, expected


def _small(key, **settings):
  """A narrow field with random codes: (field, variables, frequencies, phases)."""
  field = FilmSiren(**({"width": 16, "depth": 3, "sine": "exact"} | settings))
  codes = 0.3 * np.random.default_rng(1).standard_normal((2, field.code_size)).astype(np.float32)
  return field, field.init_params(key), jnp.asarray(codes[0]), jnp.asarray(codes[1])


def _gradients(field, variables, points, frequencies, phases):
  def density(x):
    return field.apply(variables, x, frequencies, phases, method="density")[0]

  raw, pull_back = jax.vjp(density, points)
  return raw, pull_back(jnp.ones_like(raw))[0]


def _within(actual, expected, tolerance=2e-4):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", ["pigan_hidden32", "shadegan_hidden32"])
def test_density_albedo_and_normals_are_those_of_the_published_code(name):
  variables, expected = _golden(name)
  light = expected.get("light")
  field = FilmSiren(width=32, light_condition=light is not None)
  for i in range(2):
    frequencies, phases = expected["frequencies"][i], expected["phase_shifts"][i]
    points = expected["points"][i][:, None]
    raw, rgb = field.apply(
      variables, points, expected["directions"][i], frequencies, phases, None if light is None else light[i]
    )
    _within(raw, expected["sigma_points"][i])
    _within(rgb[:, 0], expected["rgb_points"][i])
    if "normal_points" in expected:
      _, gradient = _gradients(field, variables, points, frequencies, phases)
      _within(-gradient[:, 0] / field.warp_scale, expected["normal_points"][i])


def test_parameter_counts_are_the_published_ones(key):
  mapping = 1_381_632
  for settings, count in (
    ({}, 1_910_788),
    ({"view_condition": False, "light_condition": True}, 1_911_044),
    ({"light_condition": True}, 1_911_812),
  ):
    shapes = jax.eval_shape(FilmSiren(**settings).init_params, key)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) + mapping == count


def test_the_field_is_the_formula_of_the_paper(key, rng):
  field, variables, frequencies, phases = _small(key, depth=2, light_condition=True)
  w = jax.tree.map(np.asarray, variables["params"])
  f, p = 15 * np.asarray(frequencies).reshape(3, 16) + 30, np.asarray(phases).reshape(3, 16)
  points, light = rng.uniform(-0.12, 0.12, (2, 3, 3)).astype(np.float32), np.array([0.1, 0.4, -0.5, 0.3], np.float32)
  viewdirs = rng.standard_normal((2, 3)).astype(np.float32)
  raw, rgb = field.apply(variables, *map(jnp.asarray, (points, viewdirs)), frequencies, phases, jnp.asarray(light))
  for ray in range(2):
    for sample in range(3):
      x = points[ray, sample].astype(np.float64) * 2 / 0.24
      for layer in range(2):
        x = np.sin(f[layer] * (x @ w[f"trunk_{layer}"]["kernel"] + w[f"trunk_{layer}"]["bias"]) + p[layer])
      np.testing.assert_allclose(
        raw[ray, sample], (x @ w["density_head"]["kernel"] + w["density_head"]["bias"])[0], atol=2e-5
      )
      x = np.concatenate([viewdirs[ray], x, light])
      x = np.sin(f[2] * (x @ w["color_film"]["kernel"] + w["color_film"]["bias"]) + p[2])
      color = 1 / (1 + np.exp(-(x @ w["color_head"]["kernel"] + w["color_head"]["bias"])))
      np.testing.assert_allclose(rgb[ray, sample], color, atol=2e-5)


@pytest.mark.parametrize(("view", "light"), [(True, False), (False, True)])
def test_color_depends_on_what_it_is_conditioned_on_and_density_on_nothing_else(key, rng, view, light):
  field, variables, frequencies, phases = _small(key, view_condition=view, light_condition=light)
  points = jnp.asarray(rng.uniform(-0.1, 0.1, (2, 3, 3)), jnp.float32)

  def answer(viewdirs, code):
    raw, rgb = field.apply(variables, points, viewdirs, frequencies, phases, code)
    return raw.sum(), rgb.sum()

  by_density, by_color = jax.jacrev(answer, (0, 1))(jnp.ones((2, 3)), jnp.full(4, 0.2))
  assert not any(np.any(slope) for slope in by_density)
  assert [bool(np.any(slope)) for slope in by_color] == [view, light]


def test_a_light_conditioned_field_asks_for_its_light(key):
  field, variables, frequencies, phases = _small(key, light_condition=True)
  with pytest.raises(ValueError, match="light"):
    field.apply(variables, jnp.zeros((1, 1, 3)), jnp.zeros((1, 3)), frequencies, phases)


def test_gradient_is_the_finite_difference_of_the_density_in_world_units(key, rng):
  field, variables, frequencies, phases = _small(
    key, frequency_scale=5.0, frequency_shift=10.0, warp_scale=2.0, sphere_start=SphereStart()
  )
  points = jnp.asarray(rng.uniform(-0.5, 0.5, (20, 3)), jnp.float32)
  _, gradient = _gradients(field, variables, points, frequencies, phases)
  h = 4e-3
  shifted = points[:, None, None] + h * jnp.stack([jnp.eye(3), -jnp.eye(3)], 1)[None]
  raw = field.apply(variables, shifted, frequencies, phases, method="density")[0]
  _within(gradient, (raw[..., 0] - raw[..., 1]) / (2 * h), 0.01)


def test_bfloat16_operands_move_density_under_3_percent_and_normals_under_2_degrees(key, rng):
  field, variables, frequencies, phases = _small(key, width=64, depth=8)
  points = jnp.asarray(rng.uniform(-0.12, 0.12, (500, 3)), jnp.float32)
  raw, gradient = _gradients(field, variables, points, frequencies, phases)
  rounded = field.clone(compute_dtype="bfloat16")
  rough, rough_gradient = _gradients(rounded, variables, points, frequencies, phases)
  error = np.sqrt(np.mean((rough - raw) ** 2)) / np.std(raw)
  cosine = np.sum(gradient * rough_gradient, -1) / np.linalg.norm(gradient, axis=-1)
  angles = np.degrees(np.arccos(np.clip(cosine / np.linalg.norm(rough_gradient, axis=-1), -1, 1)))
  assert 1e-4 < error < 0.03
  assert np.median(angles) < 2

  def penalty(params, f):
    return jnp.sum(_gradients(f, params, points[:20], frequencies, phases)[1] ** 2)

  exact, rough = (jax.tree.leaves(jax.grad(penalty)(variables, f)) for f in (field, rounded))
  exact, rough = (np.concatenate([leaf.ravel() for leaf in leaves]) for leaves in (exact, rough))
  assert np.linalg.norm(exact - rough) < 0.1 * np.linalg.norm(exact)


def test_sphere_start_is_a_ball_of_its_radius_in_warped_coordinates(key, rng):
  start = SphereStart(radius=0.75, sharpness=80.0, gain=0.0)
  field, variables, frequencies, phases = _small(key, sphere_start=start)
  outward = rng.standard_normal((50, 3))
  outward = jnp.asarray(outward / np.linalg.norm(outward, axis=-1, keepdims=True), jnp.float32)
  surface = outward * (0.75 / field.warp_scale)
  raw, gradient = _gradients(field, variables, surface, frequencies, phases)
  np.testing.assert_allclose(raw, 0, atol=1e-3)
  np.testing.assert_allclose(gradient, -80 * field.warp_scale * outward, rtol=1e-3, atol=1e-2)
  raw, gradient = _gradients(field, variables, jnp.zeros((1, 3)), frequencies, phases)
  np.testing.assert_allclose(raw, 80 * 0.75, rtol=1e-2)
  assert np.all(np.isfinite(gradient))
  # With the published gain the network is added on top, so the start is a soft sphere and not a fixed one.
  added = field.clone(sphere_start=SphereStart(gain=20.0)).apply(
    variables, surface, frequencies, phases, method="density"
  )
  plain = field.clone(sphere_start=None).apply(variables, surface, frequencies, phases, method="density")
  np.testing.assert_allclose(added[0], 20 * plain[0], atol=2e-3)


def test_instances_under_vmap_are_instances_one_by_one(key, rng):
  field, variables, frequencies, phases = _small(key)
  points, viewdirs = jnp.asarray(rng.uniform(-0.1, 0.1, (2, 4, 3, 3)), jnp.float32), jnp.ones((4, 3))
  codes = jnp.stack([frequencies, 0.5 * frequencies])
  together = jax.vmap(lambda x, f: field.apply(variables, x, viewdirs, f, phases))(points, codes)
  for i in range(2):
    alone = field.apply(variables, points[i], viewdirs, codes[i], phases)
    for a, b in zip(together, alone, strict=True):
      np.testing.assert_allclose(a[i], b, atol=2e-5)


def test_weights_start_in_the_published_intervals(key):
  params = FilmSiren().init_params(key)["params"]
  hidden = np.sqrt(6 / 256) / 25
  for name, bound in (("trunk_0", 1 / 3), ("trunk_7", hidden), ("density_head", hidden), ("color_head", hidden)):
    kernel = np.asarray(params[name]["kernel"])
    assert np.abs(kernel).max() <= bound
    assert np.abs(kernel).max() > 0.95 * bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.12)
  assert np.abs(params["trunk_0"]["bias"]).max() > 0.9 / np.sqrt(3)
  assert np.abs(params["trunk_3"]["bias"]).max() <= 1 / 16
