"""A replacement for GAN2Shape's 2D GAN: a renderer of one object of known shape.

A latent gives a view and a light of the object, an ellipsoid with a nose and brows, so images have an exact ground
truth. Features are fixed random convolutions; offsets are added unchanged to pitch, yaw and light direction.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.methods.gan2shape.engine_settings import InstanceImages
from shapegan_jax.methods.gan2shape.relief_model import NetworkConfig, ReliefConfig, ReliefModel, shade
from shapegan_jax.rendering.warping import sample_image

LATENT = 4
_DEVIATIONS = (0.15, 0.35, 0.4, 0.3)  # of pitch, yaw (radians), lx, ly
_LIGHT = (-0.2, 0.2, 0.0, 0.3)


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["depth", "albedo", "inside", "kernels"], meta_fields=["model"]
)
@dataclasses.dataclass(frozen=True)
class AnalyticGan:
  """A `methods.stylegan2.frozen.FrozenGenerator`."""

  depth: jax.Array  # [s, s] canonical
  albedo: jax.Array  # [s, s, 3] in [-1, 1]
  inside: jax.Array  # [s, s] 1 on the object
  kernels: tuple[jax.Array, ...]
  model: ReliefModel

  @classmethod
  def of(cls, resolution: int, relief: ReliefConfig) -> AnalyticGan:
    """The object in the method's own camera."""
    line = (np.arange(resolution) + 0.5) / resolution * 2 - 1
    x, y = np.meshgrid(line, line)
    squared = (x / 0.75) ** 2 + (y / 0.85) ** 2

    def bump(right, down, width, height):
      return np.exp(-(((x - right) / width) ** 2) - ((y - down) / height) ** 2)

    depth = 1.03 - 0.1 * np.sqrt(np.maximum(1 - squared, 0)) - 0.04 * bump(0, 0.1, 0.14, 0.25)
    depth += 0.015 * (bump(0.3, -0.2, 0.15, 0.12) + bump(-0.3, -0.2, 0.15, 0.12))
    waves = np.sin(5 * x + 2 * y), np.sin(6 * y - 3 * x + 1), np.sin(12 * x * y + 4 * y)
    albedo = 2 * (0.55 + 0.25 * np.stack(waves, -1)) - 1
    rng, channels, kernels = np.random.default_rng(0), 3, []
    for _ in range(3):
      kernels.append(rng.normal(size=(3, 3, channels, 8)) / math.sqrt(9 * channels))
      channels = 8
    model = ReliefModel(resolution, LATENT, relief, NetworkConfig())
    numbers = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (depth, albedo, squared < 1, tuple(kernels)))
    return cls(*numbers, model)

  @property
  def resolution(self):
    return self.model.resolution

  @property
  def latent_size(self):
    return LATENT

  def sample(self, key, n, truncation=1.0):
    return truncation * jax.random.normal(key, (n, LATENT))

  def views(self, w):
    angles = w[:, :2] * jnp.array(_DEVIATIONS[:2])[None]
    return jnp.concatenate([angles, jnp.zeros((len(w), 4))], 1)

  def lights(self, w):
    return jnp.array(_LIGHT)[None] + jnp.pad(w[:, 2:] * jnp.array(_DEVIATIONS[2:])[None], ((0, 0), (2, 0)))

  def rendered(self, w):
    """The `relief_model.RenderedView` of each latent."""
    canonical = self.model.with_normals(self.depth[None], self.albedo[None])
    canonical = jax.tree.map(lambda x: jnp.repeat(x, len(w), 0), canonical)
    return self.model.render_view(canonical.depth, shade(canonical, self.lights(w))[0], self.views(w))

  def image(self, w):
    return self.rendered(w).image

  def truth(self, w):
    """(depth, mask of the object) in the view of each latent."""
    rendered = self.rendered(w)
    inside = sample_image(jnp.repeat(self.inside[None, ..., None], len(w), 0), rendered.grid)[..., 0]
    return rendered.depth, (inside > 0.5) & (rendered.valid > 0.5)

  def features(self, image):
    found = []
    for kernel in self.kernels:
      layout = ("NHWC", "HWIO", "NHWC")
      image = jax.lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=layout)
      found.append(image := jax.nn.leaky_relu(image, 0.2))
    return tuple(found)

  def offset(self, o, depth):
    del depth
    return o

  def instances(self, w):
    """The images of latents, with object masks."""
    return InstanceImages(self.image(w), w, self.truth(w)[1].astype(jnp.float32))
