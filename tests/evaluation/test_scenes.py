"""What the measures look at: each sample with its own latent, pose and light, of the streams that are named here."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_shapes import FOV_DEG, RADIUS, Ball
from toy_method import ToySource

from shapegan_jax.evaluation.health import shape_report
from shapegan_jax.evaluation.images import image_report
from shapegan_jax.evaluation.preview import preview
from shapegan_jax.evaluation.shapes import view_consistency, weighted_variance
from shapegan_jax.metrics.features import FeatureNetwork
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import FieldSamples, Lights, Scene

N, SIZE = 5, 16


@dataclasses.dataclass(frozen=True)
class LitBall(Ball):
  """A ball off the axis, under lights of a prior; in the light of some it is matter, of others it is not."""

  centre: tuple = (0.02, 0.01, 0.0)
  hollow_from_the_right: bool = False

  def sample_lights(self, key, n):
    return Lights(jnp.zeros((n, 4)) if key is None else jax.random.normal(key, (n, 4)))

  def render(self, params, scene, *, resolution, truncation=1.0, key=None):
    matrix = scene.cameras.cam2world.at[:, :3, 3].add(-jnp.array([self.centre]))
    moved = dataclasses.replace(scene.cameras, cam2world=matrix)
    rendering = super().render(params, Scene(scene.latents, moved), resolution=resolution)
    wrong = 0.03 * (scene.cameras.yaw > 0.01)[:, None, None] * self.hollow_from_the_right
    return dataclasses.replace(rendering, depth=rendering.depth + wrong)

  def query(self, params, latents, points, lights=None, viewdirs=None):
    inside = jnp.linalg.norm(points, axis=-1) < RADIUS
    return FieldSamples(jnp.where(inside & (lights.code[:, :1] > 0), 1e6, 0.0), jnp.zeros(points.shape))


class Recording(Model):
  """Keeps what it was asked to render."""

  def render(self, latents, cameras=None, lights=None, **settings):
    self.seen.append((latents, cameras, lights))
    return super().render(latents, cameras, lights, **settings)


def model_of(method):
  model = Recording(method, {"offset": jnp.zeros(3), "radius": jnp.float32(RADIUS)}, {})
  object.__setattr__(model, "seen", [])
  return model


def image_distance(model):
  network = FeatureNetwork("mean", lambda pictures: (pictures.astype(np.float32).mean((1, 2)), None), "mean colours")
  image_report(model, ToySource(), features=network, count_fake=N, count_real=4, resolution=8, subsets=2, batch=2)


MEASURES = {
  "view_consistency": lambda model: view_consistency(model, samples=N, batch=2, resolution=SIZE),
  "shape_report": lambda model: shape_report(model, samples=N, batch=2, resolution=SIZE),
  "image_report_fake": image_distance,
  "preview": lambda model: preview(model, count=N, resolution=8),
}


@pytest.mark.parametrize("name", MEASURES)
def test_every_sample_is_seen_in_its_own_pose_and_light(name):
  model = model_of(LitBall())
  MEASURES[name](model)
  key = stream(root_key(0), name)
  latents, codes = (np.asarray(jax.random.normal(stream(key, of), (N, k))) for of, k in (("latents", 3), ("lights", 4)))
  angles = 0.2 * np.asarray(jax.random.normal(stream(key, "cameras"), (2, N))).T
  views = {"view_consistency": (-20.0, 0.0, 20.0), "preview": (-35.0, 0.0, 35.0)}.get(name, ())
  counts = np.zeros((N, 1 + len(views)), int)
  for seen, cameras, lights in model.seen:
    for latent, yaw, pitch, light in zip(seen, cameras.yaw, cameras.pitch, lights.code, strict=True):
      i = int(np.argmin(np.abs(latents - np.asarray(latent)).max(-1)))
      np.testing.assert_array_equal(latent, latents[i])
      np.testing.assert_array_equal(light, codes[i])
      turned = [view for view in views if abs(math.degrees(yaw) - view) < 1e-3 and pitch == 0]
      if turned:
        counts[i, 1 + views.index(turned[0])] += 1
      else:
        np.testing.assert_allclose((yaw, pitch), angles[i], atol=1e-6)
        counts[i, 0] += 1
  # Batches are filled up with what was seen already.
  assert (counts[:, int(name == "view_consistency") :] > 0).all(), counts
  assert counts[:, 0].any() == (name != "view_consistency")


def test_both_sides_count_and_each_is_seen_by_its_own_camera():
  settings = {"samples": 3, "batch": 2, "resolution": 24}
  good = view_consistency(model_of(LitBall()), **settings)
  assert good["view/depth_error"] < 2e-3
  assert good["view/common_share"] > 0.5
  half = view_consistency(model_of(LitBall(hollow_from_the_right=True)), **settings)
  # From the right everything is 0.03 further away than it is, of a distance of about 0.96.
  np.testing.assert_allclose(half["view/depth_error"], 0.03 / 0.97 / 2, rtol=0.1)


def test_normals_of_the_depth_are_those_of_the_camera_that_saw_it():
  """Poses are some ten degrees from the centre of the prior, by which the normals would turn."""
  found = shape_report(model_of(LitBall()), samples=N, batch=2, resolution=48)
  assert found["shape/normal_disagreement_deg"] < 4


def test_the_thickness_is_that_of_each_sample_in_its_own_light():
  found = weighted_variance(model_of(LitBall()), samples=8, batch=3, resolution=8)
  key = stream(root_key(0), "weighted_variance")
  lit = np.asarray(jax.random.normal(stream(key, "lights"), (8, 4)))[:, 0] > 0
  assert 0 < lit.mean() < 1
  grid = np.linspace(-1, 1, 8) * math.tan(math.radians(FOV_DEG / 2)) / RADIUS
  disc = np.mean(grid[:, None] ** 2 + grid[None] ** 2 < 1)
  np.testing.assert_allclose(found["shape/opaque_share"], lit.mean() * disc, atol=0.05)
