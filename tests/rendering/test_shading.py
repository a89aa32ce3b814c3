from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.rendering import shading as module
from shapegan_jax.rendering.shading import GaussianLights, fit_gaussian_lights
from shapegan_jax.types import Lights

lambertian = jax.jit(module.lambertian)

MEAN = np.array([0.17, 0.42, 0.0, 0.2])
COV = np.array([[0.04, 0.01, 0, 0], [0.01, 0.03, 0, 0.005], [0, 0, 0.2, 0], [0, 0.005, 0, 0.1]])


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def lit(normal, code, *, albedo=0.5, ratio=1.0):
  color, shading = lambertian(
    jnp.full((3,), albedo), jnp.array(normal, jnp.float32), Lights(jnp.array(code)), ratio=ratio
  )
  return np.asarray(color), float(shading[0])


def test_the_published_numbers_of_a_plane_that_faces_the_camera():
  light = Lights(jnp.zeros(4))
  assert (float(light.ambient), float(light.diffuse)) == (0.5, 0.5)
  np.testing.assert_array_equal(light.direction, [0, 0, 1])
  assert lit([0, 0, 1], [0.0, 0, 0, 0])[1] == 1.0
  light = Lights(jnp.array([0.17, 0.42, 0.0, 0.0]))
  np.testing.assert_allclose([light.ambient, light.diffuse], [0.585, 0.71], rtol=1e-6)


def test_shading_follows_the_cosine_and_stops_at_the_terminator():
  for degrees in (0, 30, 60, 90, 120, 180):
    angle = np.deg2rad(degrees)
    _, shading = lit([np.sin(angle), 0, np.cos(angle)], [-0.6, 0.2, 0.0, 0.0])
    np.testing.assert_allclose(shading, 0.2 + 0.6 * max(0, np.cos(angle)), atol=1e-6)


def test_color_is_albedo_times_shading_within_0_and_1():
  color, shading = lit([0, 0, 1], [-0.2, -0.4, 0.5, -0.5])
  np.testing.assert_allclose(shading, 0.4 + 0.3 / np.sqrt(1.5), rtol=1e-6)
  np.testing.assert_allclose(color, 0.5 * shading, rtol=1e-6)
  color, shading = lit([0, 0, 1], [1.0, 1.0, 0.0, 0.0], albedo=0.8)
  np.testing.assert_allclose((*color, shading), (1, 1, 1, 2))


def test_ratio_fades_from_plain_albedo_to_full_shading():
  normal, code = [0.6, 0, 0.8], [-0.6, 0.2, 0.0, 0.0]
  full = lit(normal, code)[1]
  assert lit(normal, code, ratio=0.0)[1] == 1.0
  np.testing.assert_allclose(lit(normal, code, ratio=0.25)[1], 0.25 * full + 0.75, rtol=1e-6)
  np.testing.assert_allclose(lit(normal, code, ratio=0.0)[0], 0.5)


def test_turning_normals_and_light_together_leaves_the_shading(rng):
  normals = unit(rng.normal(size=(20, 3))).astype(np.float32)
  code = np.array([0.1, 0.3, 0.4, -0.7], np.float32)
  angle = 0.9
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
  turned_normals = np.concatenate([normals[:, :2] @ turn.T, normals[:, 2:]], -1)
  turned_code = np.concatenate([code[:2], turn @ code[2:]])
  albedo = jnp.full((20, 3), 0.3)
  plain = lambertian(albedo, jnp.array(normals), Lights(jnp.array(code)))
  turned = lambertian(albedo, jnp.array(turned_normals), Lights(jnp.array(turned_code)))
  np.testing.assert_allclose(turned[1], plain[1], atol=1e-6)
  assert np.ptp(plain[1]) > 0.3


def test_lights_align_with_the_first_axes_of_the_rays(rng):
  albedo = jnp.array(rng.uniform(size=(2, 2, 4, 3)), jnp.float32)
  normals = jnp.array(unit(rng.normal(size=(2, 2, 4, 3))), jnp.float32)
  codes = jnp.array(rng.normal(size=(2, 4)), jnp.float32)
  batch = lambertian(albedo, normals, Lights(codes))
  per_image = jax.vmap(lambertian)(albedo, normals, Lights(codes))
  explicit = lambertian(albedo, normals, Lights(codes[:, None, None]))
  for color, shading in (per_image, explicit):
    np.testing.assert_allclose(color, batch[0], atol=1e-6)
    np.testing.assert_allclose(shading, batch[1], atol=1e-6)
  one = lambertian(albedo[1], normals[1], Lights(codes[1]))
  np.testing.assert_allclose(one[1], batch[1][1], atol=1e-6)


def test_gradients_are_finite_at_the_terminator_and_zero_in_the_attached_shadow():
  normals = jnp.array([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [0, 0, 0]])

  def total(normals, code):
    return lambertian(jnp.full((4, 3), 0.5), normals, Lights(code))[1].sum()

  by_normals, by_code = jax.jit(jax.grad(total, argnums=(0, 1)))(normals, jnp.zeros(4))
  assert np.isfinite(by_normals).all()
  assert np.isfinite(by_code).all()
  np.testing.assert_array_equal(by_normals[2], 0)


def test_the_light_prior_has_its_mean_and_covariance_and_a_fit_recovers_them(key):
  prior = GaussianLights(MEAN, COV)
  codes = np.asarray(prior.sample(key, (200, 100)).code)
  assert codes.shape == (200, 100, 4)
  fitted = fit_gaussian_lights(codes.reshape(-1, 4))
  n, variance = 20_000, np.diag(COV)
  assert (np.abs(fitted.mean - MEAN) < 5 * np.sqrt(variance / n)).all()
  # The variance of a sample covariance: (c_ij^2 + c_ii c_jj) / n.
  assert (np.abs(fitted.cov - COV) < 5 * np.sqrt((COV**2 + np.outer(variance, variance)) / n)).all()
  np.testing.assert_allclose(prior.sample(None, (2,)).code, [MEAN, MEAN], rtol=1e-6)


def test_a_direction_without_variance_stays_fixed(key):
  cov = np.diag([0.0, 0.1, 0.0, 0.2])
  code = jax.jit(lambda key: GaussianLights(MEAN, cov).sample(key, (50,)).code)(key)
  np.testing.assert_allclose(code[:, [0, 2]], np.tile(MEAN[[0, 2]], (50, 1)), atol=1e-6)
  assert np.std(code[:, 3]) > 0.2


def test_bad_priors_are_refused_by_name():
  with pytest.raises(UserError, match="light prior: mean"):
    GaussianLights(np.zeros(3), np.eye(3))
  with pytest.raises(UserError, match="negative eigenvalue"):
    GaussianLights(MEAN, -np.eye(4))
  with pytest.raises(UserError, match="at least two"):
    fit_gaussian_lights(np.zeros((1, 4)))
