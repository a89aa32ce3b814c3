from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from toy_method import ToyMethod, ToySource

from shapegan_jax.evaluation import shapes as shape_metrics
from shapegan_jax.evaluation.depth_protocol import DepthProtocol, Pairs, average_depth
from shapegan_jax.fitting import FitConfig
from shapegan_jax.geometry.cameras import orbit_cameras
from shapegan_jax.methods.volume_gan.cameras import CameraConfig
from shapegan_jax.metrics import depth_errors
from shapegan_jax.model import Model
from shapegan_jax.rendering.opacities import Density, Occupancy
from shapegan_jax.types import Codes, FieldSamples

TINY = DepthProtocol(pairs=4, width=4, bottleneck=4, batch_size=2, fit=FitConfig(steps=2, warmup=0))
FOV_DEG = 12.0
RADIUS = 0.06


@dataclasses.dataclass(frozen=True)
class Ball(ToyMethod):
  """A ball whose field may be asked at points: raw is `inside` in it and `outside` elsewhere."""

  inside: float = 1e6
  outside: float = 0.0
  turns: bool = True
  cameras = CameraConfig()

  def cameras_at(self, yaw, pitch):
    return orbit_cameras(yaw, pitch, fov=jnp.deg2rad(FOV_DEG))

  def codes(self, params, latents, *, truncation=1.0):
    return latents if isinstance(latents, Codes) else Codes((latents,))

  # The rest of a `FieldMethod`, of which the measures ask nothing.
  opacity, background, half_extent, surface_margin = Density(), 0.0, 0.12, None
  align, zooms, light_conditioned, eval_samples = "corners", True, False, 8
  field_fn = with_eval_samples = print

  def rays(self, cameras, resolution):
    return self.cameras.picture_rays(cameras, resolution)

  def opacity_of(self, params):
    return Density()

  def query(self, params, latents, points, lights=None, viewdirs=None):
    raw = jnp.where(jnp.linalg.norm(points, axis=-1) < RADIUS, self.inside, self.outside)
    return FieldSamples(raw, jnp.zeros(points.shape))

  def render(self, params, scene, *, resolution, truncation=1.0, key=None):
    rendering = super().render(params, scene, resolution=resolution)
    depth = rendering.depth if self.turns else jnp.ones_like(rendering.depth)  # a disc that always faces the camera
    return dataclasses.replace(rendering, rgb=rendering.albedo, depth=depth)


class Balls(ToySource):
  """Two pictures of one ball."""

  def __init__(self):
    super().__init__()
    self.pictures = self.pictures[:2]
    y, x = np.mgrid[-0.1:0.1:8j, -0.1:0.1:8j]
    self.mask = x**2 + y**2 < 0.11**2
    self.depth = 1 - np.sqrt(np.maximum(0.15**2 - x**2 - y**2, 0))


class Foggy(Ball):
  """The same as an occupancy field that is a little opaque everywhere in front."""

  def opacity_of(self, params):
    return Occupancy()


class FoggyBehindItsSurface(Foggy):
  surface_margin = 0.01


def model_of(method):
  params = {"offset": jnp.zeros(3), "radius": jnp.float32(RADIUS)}
  return Model(method, params, {})


def test_the_depth_report_has_the_bounds_and_every_model(tmp_path, monkeypatch):
  monkeypatch.setattr(shape_metrics, "open_source", lambda data: Balls())
  report = shape_metrics.depth_report({"toy": model_of(Ball())}, tmp_path, data={"name": "toy"}, protocol=TINY)
  assert list(report) == ["constant", "mean", "supervised", "toy"]
  test = Pairs.of(Balls(), far=1.12)
  mask = depth_errors.common_mask(np.ones_like(test.mask), test.mask)
  flat = np.ones_like(test.depth)
  np.testing.assert_allclose(
    report["constant"]["side_e2"], 100 * depth_errors.side(flat, test.depth, mask)[0], rtol=1e-5
  )
  angle = depth_errors.mad(flat, test.depth, mask, fov=math.radians(FOV_DEG))[0]
  np.testing.assert_allclose(report["constant"]["mad_deg"], angle, rtol=1e-5)
  # All pictures of the toy's set have the same depth, so that its average has no error.
  np.testing.assert_array_equal(average_depth(test)[test.mask[0]], test.depth[0][test.mask[0]])
  assert report["mean"]["side_e2"] < 1e-4
  assert report["mean"]["mad_deg"] < 0.05
  for name, row in report.items():
    for key in ("side_e2", "mad_deg"):
      assert row[f"{key}_of_constant"] == row[key] / report["constant"][key]
    assert ("train_loss" in row) == (name in ("supervised", "toy"))
  assert (tmp_path / "toy" / "depth.png").exists()
  assert (tmp_path / "supervised" / "depth.png").exists()


def test_views_of_a_thing_agree_and_those_of_a_picture_that_turns_with_you_do_not():
  settings = {"samples": 3, "batch": 2, "resolution": 24}
  good = shape_metrics.view_consistency(model_of(Ball()), **settings)
  bad = shape_metrics.view_consistency(model_of(Ball(turns=False)), **settings)
  assert good["view/depth_error"] < 1e-3 < 0.003 < bad["view/depth_error"]
  assert good["view/color_error"] < 1e-5  # one colour
  assert 0.5 < good["view/common_share"] <= 1


def test_a_hard_surface_has_no_variance_and_a_thin_cloud_has_that_of_its_depth():
  settings = {"samples": 2, "batch": 2, "resolution": 8}
  hard = shape_metrics.weighted_variance(model_of(Ball()), **settings)
  assert hard["shape/weighted_variance_e4"] < 1e-6
  grid = np.linspace(-1, 1, 8) * math.tan(math.radians(6)) / RADIUS
  disc = np.mean(grid[:, None] ** 2 + grid[None] ** 2 < 1)
  np.testing.assert_allclose(hard["shape/opaque_share"], disc, atol=0.1)
  # Density 100 per unit: exponential behind the surface, a standard deviation of 0.01, cut at most where it ends.
  cloud = shape_metrics.weighted_variance(model_of(Ball(inside=100.0)), **settings, points=200)
  assert 0.7 < cloud["shape/weighted_variance_e4"] < 1.05
  empty = shape_metrics.weighted_variance(model_of(Ball(inside=0.0)), **settings)
  assert math.isnan(empty["shape/weighted_variance_e4"])
  assert empty["shape/opaque_share"] == 0


def test_fog_far_in_front_of_an_occupancy_fields_surface_does_not_count():
  settings = {"samples": 1, "batch": 1, "resolution": 8}
  foggy = Foggy(inside=20.0, outside=-3.0)
  fog = shape_metrics.weighted_variance(model_of(foggy), **settings)["shape/weighted_variance_e4"]
  foggy = FoggyBehindItsSurface(inside=20.0, outside=-3.0)
  cut = shape_metrics.weighted_variance(model_of(foggy), **settings)["shape/weighted_variance_e4"]
  assert cut < 0.1 * fog
  assert fog > 1
