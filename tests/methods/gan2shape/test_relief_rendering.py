"""The model of an image: frames, lights, textures and masks, and renderings in the world frame."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_gan import LATENT
from compiler_flags import AS_SHIPPED
from gan2shape_setup import CONFIG, SIZE, changed, random_latents, with_true_predictions

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.depthmaps import normals_from_depth
from shapegan_jax.geometry.pixels import pixel_grid
from shapegan_jax.geometry.relief import camera_poses, move, points_to_world, project
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.relief_model import shade, views_from_angles
from shapegan_jax.methods.gan2shape.settings import MaskConfig
from shapegan_jax.rendering.shading import lambertian
from shapegan_jax.types import Lights, Scene


def test_views_agree_with_world_cameras(gan, rng):
  yaw, pitch = (jnp.asarray(rng.uniform(-0.7, 0.7, 5), jnp.float32) for _ in range(2))
  views = views_from_angles(yaw, pitch)
  np.testing.assert_allclose(jnp.stack(camera_poses(views)), jnp.stack([yaw, pitch]), atol=1e-6)
  points = jnp.asarray(rng.uniform(-0.08, 0.08, (5, 3, 4, 3)), jnp.float32).at[..., 2].add(1.0)
  projected = project(gan.model.camera, move(points, views))
  cameras = Gan2Shape.from_config(CONFIG).cameras_at(yaw, pitch)
  relative = points_to_world(gan.model.camera, points) - cameras.cam2world[:, None, None, :3, 3]
  in_camera = jnp.einsum("bji,bhwj->bhwi", cameras.cam2world[:, :3, :3], relative)
  scale = jnp.tan(cameras.fov / 2)[:, None, None]
  np.testing.assert_allclose(projected[..., 0], in_camera[..., 0] / -in_camera[..., 2] / scale, atol=1e-5)
  np.testing.assert_allclose(projected[..., 1], -in_camera[..., 1] / -in_camera[..., 2] / scale, atol=1e-5)


def test_reliefs_have_the_packages_lambertian_shading(gan):
  canonical = gan.model.with_normals(gan.depth[None], gan.albedo[None])
  codes = jnp.array([[-0.2, 0.1, 0.3, -0.4]])
  texture, shading = shade(canonical, codes)
  color, expected = lambertian(canonical.albedo / 2 + 0.5, canonical.normals, Lights(codes))
  np.testing.assert_allclose(texture / 2 + 0.5, color, atol=1e-6)
  np.testing.assert_allclose(shading[..., None], expected, atol=1e-6)


def test_the_texture_of_an_image_is_its_unlit_albedo(gan, rng):
  latent = random_latents(rng, 3, scale=0.4)
  canonical = gan.model.with_normals(*(jnp.repeat(x[None], 3, 0) for x in (gan.depth, gan.albedo)))
  blank = dataclasses.replace(canonical, albedo=jnp.zeros_like(canonical.albedo))
  views, lights = gan.views(latent), gan.lights(latent)
  textured, _ = jax.jit(gan.model.with_image_texture)(blank, gan.image(latent), views, lights)
  visible = gan.model.canonical_mask(canonical.depth, gan.truth(latent)[1].astype(jnp.float32), views) > 0.99
  inside = np.asarray(visible & (gan.inside > 0.5)[None])
  error = np.abs(np.asarray(textured.albedo - canonical.albedo)).mean(-1)[inside]
  assert np.median(error) < 0.05, "coarse pixels, interpolated twice"
  np.testing.assert_array_equal(textured.depth, canonical.depth)


def test_occluded_and_oblique_surfaces_are_not_visible(gan):
  columns = jnp.arange(SIZE)
  block = jnp.where((columns >= 6) & (columns < 10), 0.9, 1.0)[None, None] * jnp.ones((1, SIZE, 1))
  canonical = gan.model.with_normals(block, jnp.zeros((1, SIZE, SIZE, 3)))
  image, lights = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros((1, 4))

  def visible_row(yaw):
    views = views_from_angles(jnp.array([yaw]), jnp.zeros(1))
    return gan.model.with_image_texture(canonical, image, views, lights)[1][0, 8]

  front, rotated = visible_row(0.0), visible_row(0.5)
  np.testing.assert_array_equal(front[jnp.array([2, 3, 7, 8, 12, 13])], 1.0)
  assert not front[jnp.array([5, 10])].any(), "the sides of the block are too oblique"
  occluded = np.flatnonzero(np.asarray(front) > np.asarray(rotated))
  assert len(occluded) > 0
  assert (occluded > 9).all() or (occluded < 6).all(), "only what is behind the block"


def test_a_shared_ellipsoid_covers_the_pixels_of_most_masks():
  masks = jnp.zeros((3, 16, 16)).at[:, 4:12, 4:12].set(1.0).at[0, :, 12:].set(1.0)
  settings = MaskConfig(near=0.9, far=1.0, radius=0.1, shared=True)
  np.testing.assert_array_equal(settings.prior(masks)[0], settings.prior(masks)[2])
  separate = dataclasses.replace(settings, shared=False).prior(masks)
  np.testing.assert_allclose(settings.prior(masks)[0], separate[1], atol=1e-6)
  np.testing.assert_allclose(settings.prior(masks)[0, 7, 7:10].min(), 0.9, atol=3e-3)


@pytest.mark.parametrize(("mean_depth", "expected"), [(True, 1.0), (False, 1.1)])
def test_networks_determine_the_distance_only_without_a_fixed_mean_depth(mean_depth, expected, key):
  model = Gan2Shape.from_config(changed(relief={"mean_depth": mean_depth})).model
  params = jax.tree.map(jnp.zeros_like, model.init(key))
  object.__setattr__(model, "apply", lambda params, name, images: jnp.full((*images.shape[:3], 1), 5.0))
  depth = model.depth_without_border(params, jnp.zeros((1, SIZE, SIZE, 3)))
  np.testing.assert_allclose(depth, expected, atol=1e-3)


def test_instances_are_rendered_in_the_world_frame(gan):
  latent = jnp.zeros((2, LATENT))
  method = with_true_predictions(Gan2Shape.from_config(CONFIG), gan, latent)
  images = gan.image(latent)
  params = {"networks": {"latents": latent}, "pictures": jnp.round(images * 127.5 + 127.5).astype(jnp.uint8)}
  codes = method.codes(params, method.sample_latents(jax.random.key(1), 2))
  assert sorted(np.asarray(codes.values[1])) == [0, 1]
  cameras = method.cameras_at(jnp.array([0.0, 0.5]), jnp.array([0.0, 0.2]))
  scene = Scene(codes, cameras)
  rendering = jax.jit(method.render, static_argnames="resolution", compiler_options=AS_SHIPPED)(
    params, scene, resolution=SIZE
  )
  inner = slice(2, -2)
  np.testing.assert_allclose(rendering.rgb[0, inner, inner], images[0, inner, inner] / 2 + 0.5, atol=0.01)
  np.testing.assert_allclose(rendering.extras["input"], images / 2 + 0.5, atol=0.005)
  np.testing.assert_allclose(rendering.extras["recon"][0, inner, inner], rendering.rgb[0, inner, inner], atol=1e-5)
  inside = np.asarray(gan.inside, bool)
  expected = normals_from_depth(rendering.depth, cameras, pixel_grid(SIZE, SIZE))
  angle = np.degrees(np.arccos(np.clip(np.sum(np.asarray(rendering.normals * expected), -1), -1, 1)))
  assert np.median(angle[0][inside]) < 1
  assert np.median(angle[1][4:-4, 4:-4]) < 12  # coarse pixels, whose slopes differ between the two views
  # A light from the right in the world frame lights the right side of the object.
  lights = Lights(jnp.array([[-1.0, 1.0, 2.0, 0.0]] * 2))
  relit = jax.jit(method.render, static_argnames="resolution")(params, Scene(codes, cameras, lights), resolution=SIZE)
  left, right = relit.shading[0, 8, 4:6].mean(), relit.shading[0, 8, 10:12].mean()
  assert right > left + 0.3
  assert method.render(params, scene, resolution=8).rgb.shape == (2, 8, 8, 3)
  with pytest.raises(UserError, match="have no field"):
    method.query(params, codes, jnp.zeros((2, 1, 3)))
