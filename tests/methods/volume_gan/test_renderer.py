"""The renderer of a batch: instance i, under light i, along its own rays, in its own window, from camera i.

Balls whose place and size are their codes, whose colour is their light's and under a shader that tells lights apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, pigan
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan.cameras import CameraConfig
from shapegan_jax.methods.volume_gan.renderer import Renderer
from shapegan_jax.rendering.opacities import Density, LogisticDensity
from shapegan_jax.rendering.samplers import HierarchicalSampler
from shapegan_jax.rendering.volume import Compositor, Window
from shapegan_jax.types import FieldSamples, Lights

SIZE, NEAR, FAR, BACKGROUND = 8, 0.8, 1.2, 0.25
LIGHTS = Lights(jnp.array([[0.8, -0.6, 0.0, 0.0], [-0.4, 0.2, 0.0, 0.0], [0.0, 0.9, 0.0, 0.0]]))
CENTRES = jnp.array([[0.02, 0.0, 0.01], [-0.03, 0.02, 0.0], [0.0, -0.02, -0.02]])
RADII = jnp.array([0.05, 0.06, 0.07])


def ball_of(params, codes, light):
  centre, radius = codes

  def field(points, viewdirs):
    away = jnp.linalg.norm(points - jnp.broadcast_to(centre, points.shape), axis=-1)
    color = jnp.stack([light.ambient, light.diffuse, params["blue"]])
    return FieldSamples(params["sharpness"] * (radius - away), jnp.broadcast_to(color, points.shape))

  return field


def halved_by_ambient(albedo, normals, light):
  shading = jnp.broadcast_to(light.ambient / 2, albedo[..., :1].shape)
  return albedo * shading, shading


@pytest.fixture(scope="module")
def cameras():
  angles = jnp.array([[0.3, -0.5, 0.1], [0.1, 0.2, -0.3]])
  return orbit_cameras(*angles, fov=jnp.deg2rad(12.0), radius=jnp.array([1.0, 1.06, 0.95]))


@pytest.fixture(scope="module")
def rays(cameras):
  return CameraConfig(near=NEAR, far=FAR).picture_rays(cameras, SIZE)


def exact(rays):
  """(distance, surely inside, surely outside) [3, SIZE, SIZE] of each ray to its own ball."""
  o, d = np.asarray(rays.origins - CENTRES[:, None], np.float64), np.asarray(rays.viewdirs, np.float64)
  along = np.sum(o * d, -1)
  square = along**2 - np.sum(o**2, -1) + np.asarray(RADII)[:, None] ** 2
  found = -along - np.sqrt(np.maximum(square, 0)), square > 5e-4, square < -5e-4
  return tuple(x.reshape(3, SIZE, SIZE) for x in found)


@pytest.mark.parametrize("chunk_points", [0, 3 * 20 * 96])
def test_each_picture_is_of_its_own_ball_light_and_camera(cameras, rays, chunk_points):
  compositor = Compositor(shader=halved_by_ambient, background=BACKGROUND)
  sampler = HierarchicalSampler(coarse=48, fine=48)
  render = Renderer(ball_of, Density(), sampler, compositor, gradient=True, chunk_points=chunk_points)
  params = {"sharpness": jnp.float32(1e6), "blue": jnp.float32(0.4)}
  picture = jax.jit(lambda params: render(params, (CENTRES, RADII), cameras, rays, LIGHTS))(params)
  distance, hit, miss = exact(rays)
  assert hit.any((1, 2)).all()
  assert miss.any((1, 2)).all()
  np.testing.assert_allclose(picture.distance[hit], distance[hit], atol=6e-3)  # samples are 8e-3 apart
  # The depth is along the axis of the picture's own camera.
  axes = -np.asarray(cameras.cam2world)[:, None, :3, 2]
  cosines = np.sum(axes * np.asarray(rays.viewdirs), -1).reshape(hit.shape)
  np.testing.assert_allclose(picture.depth, picture.distance * cosines, rtol=1e-5)
  code = np.asarray(LIGHTS.code)
  albedo = np.stack([code[:, 0] / 2 + 0.5, code[:, 1] / 2 + 0.5, np.full(3, 0.4)], -1)
  shading = code[:, 0] / 4 + 0.25
  for i in range(3):
    np.testing.assert_allclose(picture.albedo[i][hit[i]], np.tile(albedo[i], (hit[i].sum(), 1)), atol=1e-3)
    np.testing.assert_allclose(picture.rgb[i][hit[i]], np.tile(shading[i] * albedo[i], (hit[i].sum(), 1)), atol=1e-3)
    np.testing.assert_allclose(picture.rgb[i][miss[i]], BACKGROUND, atol=1e-6)
  points = (rays.origins + picture.distance.reshape(3, -1, 1) * rays.viewdirs).reshape(3, SIZE, SIZE, 3)
  outwards = (points - CENTRES[:, None, None]) / RADII[:, None, None, None]
  np.testing.assert_allclose(picture.normals[hit], outwards[hit], atol=0.15)


def test_each_ray_is_sampled_in_the_window_around_its_own_centre(cameras, rays):
  """Of a field without matter what is evaluated lies where the windows are."""
  seen = []

  def empty(params, codes, light):
    def field(points, viewdirs):
      jax.debug.callback(lambda points: seen.append(np.asarray(points)), points)
      return FieldSamples(-jnp.ones(points.shape[:-1]), points)

    return field

  centre = jnp.linspace(0.9, 1.1, 3 * SIZE**2).reshape(3, -1)
  render = Renderer(empty, Density(), HierarchicalSampler(coarse=8, fine=0), Compositor())
  window = Window(centre=centre, width=jnp.float32(0.02))
  jax.block_until_ready(render({}, (CENTRES,), cameras, rays, window=window))
  jax.effects_barrier()
  points = np.concatenate([p.reshape(-1, 3) for p in seen])
  assert len(points) == 3 * SIZE**2 * 8
  # Every point belongs to a ray, within half of the width of its centre.
  found = 0
  for i in range(3):
    origin = np.asarray(rays.origins[i, 0])
    mine = origin + np.asarray(centre[i])[:, None] * np.asarray(rays.viewdirs[i])
    near = np.linalg.norm(points[:, None] - mine[None], axis=-1).min(1) < 0.0101
    found = found + near
  assert (found > 0).all()


def absorbed(params):
  """By a slab of raw = 0.03 from near to far: density sigmoid(raw / a) / a."""
  a = np.exp(params["opacity"]["log_tightness"])
  return -np.expm1(-(FAR - NEAR) / (a * (1 + np.exp(-0.03 / a))))


@pytest.mark.parametrize("tightness", [0.05, 0.6])
def test_the_opacitys_own_parameters_are_those_that_were_learned(cameras, rays, tightness):
  params = {"opacity": {"log_tightness": jnp.log(jnp.float32(tightness))}}

  def slab(params, codes, light):
    return lambda points, viewdirs: FieldSamples(jnp.full(points.shape[:-1], 0.03), points)

  render = Renderer(slab, LogisticDensity(), HierarchicalSampler(coarse=6, fine=6), Compositor())
  picture = render(params, (CENTRES,), cameras, rays)
  np.testing.assert_allclose(picture.acc, absorbed(params), atol=0.02)
  # The method's own door to them, by which its shapes are measured and meshed.
  config = common.shrink(pigan.get_config("smoke"))
  config.rendering.opacity = "logistic"
  opacity = build(config.to_dict()).opacity_of(params)
  density = 1 / (tightness * (1 + np.exp(-0.03 / tightness)))
  found = opacity(jnp.full((1, 1), 0.03), jnp.full((1, 1), 0.1))
  np.testing.assert_allclose(found, -np.expm1(-0.1 * density), rtol=1e-5)
