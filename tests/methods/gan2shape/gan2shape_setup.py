"""Shared by GAN2Shape's tests: a small config, generators of known images, and networks with known predictions."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from analytic_gan import LATENT

from shapegan_jax.methods.gan2shape.engine_settings import InstanceImages, ProjectedSamples, StepBatch, Targets
from shapegan_jax.methods.gan2shape.latent_directions import Directions
from shapegan_jax.methods.gan2shape.pseudo_samples import Estimates

SIZE = 16
NETWORK = {"mapping": {"size": LATENT}, "synthesis": {"channels": (8, 8, 8)}, "discriminator": {"channels": (8, 8, 8)}}
CONFIG = {
  "stages": {"resolution": SIZE, "samples": 2, "pool": 2, "flip_albedo": (False,), "flip_joint": (False,)},
  "instances": {"count": 2},
  "gan": {"network": NETWORK},
  "networks": {"width": 4, "bottleneck": 8, "encoder_width": 4, "offset_width": 4},
  "relief": {"supersample": 1},
}


def changed(**sections):
  """`CONFIG` with settings replaced."""
  return {**CONFIG, **{name: {**CONFIG.get(name, {}), **values} for name, values in sections.items()}}


def normalized_views(gan, latent):
  """The true views of latents in the units of the view network."""
  return gan.views(latent) / gan.model.denormalize_views(jnp.ones((1, 6))).at[:, 5].set(1.0)


def with_true_predictions(method, gan, latent):
  """The method with networks that predict the truth of the analytic generator for params["latents"]."""
  model = dataclasses.replace(method.model)
  maps = jax.tree.map(lambda x: jnp.repeat(x[None], len(latent), 0), (gan.depth, gan.albedo))
  predictions = {
    "predict_canonical": lambda params, images: model.with_normals(*maps),
    "predict_views": lambda params, images: normalized_views(gan, params["latents"]),
    "predict_lights": lambda params, images: gan.lights(params["latents"]),
  }
  for name, predict in predictions.items():
    object.__setattr__(model, name, predict)
  return dataclasses.replace(method, model=model)


def batch_of(gan, latent, samples):
  """The `StepBatch` of the analytic generator's images of latents [k], with samples [k, b] of other latents."""
  instances = gan.instances(latent)
  flat = samples.reshape(-1, LATENT)
  others = gan.instances(flat)
  images, masks = (x.reshape(*samples.shape[:2], *x.shape[1:]) for x in (others.image, others.mask))
  pose = (x.reshape(*samples.shape[:2], -1) for x in (normalized_views(gan, flat), gan.lights(flat)))
  projected = ProjectedSamples.pack(images, masks, *pose)
  return StepBatch(Targets(instances, instances.image, instances.mask), projected, None, gan)


def random_latents(rng, *shape, scale):
  return jnp.asarray(rng.normal(size=(*shape, LATENT)), jnp.float32) * scale


@dataclasses.dataclass(frozen=True)
class ColorGan:
  """A generator whose images have one colour, which is the style."""

  latent_size: int = 3

  def sample(self, key, n, truncation=1.0):
    return truncation * jax.random.normal(key, (n, 3))

  def image(self, w):
    return jnp.broadcast_to(w[:, None, None], (len(w), SIZE, SIZE, 3))

  def features(self, image):
    return (image,)

  def offset(self, o, depth):
    del depth
    return o


def color_batch():
  """The `StepBatch` of two images of a `ColorGan`."""
  gan, latent = ColorGan(), jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
  images = gan.image(latent)
  instances = InstanceImages(images, latent, images[..., 0])
  pose = jnp.zeros((2, 1, 6)), jnp.zeros((2, 1, 4))
  samples = ProjectedSamples.pack(images[:, None], images[:, None, ..., 0], *pose)
  return StepBatch(Targets(instances, images, images[..., 0]), samples, None, gan)


def estimates_of(views):
  """The estimates of a run before anything was estimated."""
  return Estimates(views.configured_prior(), Directions.zeros(10, 3))


def scaled_color(factor, zeros, params, images):
  return jnp.pad(factor * images.mean((1, 2)), ((0, 0), (0, zeros)))


def with_scaled_predictions(method, factor):
  """The method with offset, view and light networks that predict `factor` times the colour, which is the style."""
  model = dataclasses.replace(method.model)
  outputs = {"offset": lambda images: factor * images.mean((1, 2))}
  object.__setattr__(model, "apply", lambda params, name, images: outputs[name](images))
  for name, zeros in (("predict_views", 3), ("predict_lights", 1)):
    object.__setattr__(model, name, partial(scaled_color, factor, zeros))
  return dataclasses.replace(method, model=model)
