"""The losses of steps 1 and 3 of GAN2Shape: reconstruction of images, and depth regularisation."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from shapegan_jax import parallel
from shapegan_jax.methods.gan2shape.engine_settings import StepBatch
from shapegan_jax.methods.gan2shape.pseudo_samples import pose_errors
from shapegan_jax.methods.gan2shape.relief_model import ReliefModel, lambert_cosines, shade
from shapegan_jax.methods.gan2shape.settings import MaskConfig, Objectives
from shapegan_jax.objectives.reconstruction import masked_l1, smoothness
from shapegan_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class ReconstructionLosses(abc.ABC):
  """Mixin of the method. `perceptual`: LPIPS of two batches of images, or None."""

  model: ReliefModel
  masks: MaskConfig
  objectives: Objectives
  perceptual: Callable[[Array, Array], Array] | None

  def reconstruction_terms(
    self, params: dict[str, PyTree], batch: StepBatch, *, joint: bool, flip: bool
  ) -> dict[str, Array]:
    """The losses of steps 1 and 3 (`joint`): the input images, and in step 3 also their projected samples, are
    reconstructed from the canonical maps predicted for the input images; with `flip`, from the mirrored maps too."""
    instances, model, weights = batch.targets.instances, self.model, self.objectives
    image = instances.image[:, None]
    mask = (instances.mask if self.masks.in_loss else jnp.ones_like(instances.mask))[:, None]
    if joint:
      projected, projected_mask = batch.samples.unpack()  # [k, m - 1, ...]
      image, mask = (jnp.concatenate(pair, 1) for pair in ((image, projected), (mask, projected_mask)))
    k, m = image.shape[:2]
    flat = parallel.over_batch(image.reshape(k * m, *image.shape[2:]))
    normalized_views, lights = model.predict_views(params, flat), model.predict_lights(params, flat)
    views = model.denormalize_views(normalized_views)
    canonical = model.predict_canonical(params, instances.image)
    terms: dict[str, Array] = {}
    if joint and weights.pose_consistency:
      predicted = (x.reshape(k, m, -1)[:, 1:] for x in (normalized_views, lights))
      errors = pose_errors(*predicted, batch.samples.views, batch.samples.lights)
      terms |= {f"pose_consistency_{name}": weights.pose_consistency * error for name, error in errors.items()}
    if joint and (weights.depth_prior or weights.depth_scale):
      terms |= self._depth_terms(model.depth_without_border(params, instances.image), batch.targets.prior)
    if joint and weights.texture:
      own_views, own_lights = (x.reshape(k, m, -1)[:, 0] for x in (views, lights))
      textured, visible = model.with_image_texture(canonical, instances.image, own_views, own_lights)
      inside = visible * model.canonical_mask(canonical.depth, mask[:, 0], own_views)
      target, inside = jax.lax.stop_gradient((textured.albedo, inside))
      terms["texture"] = weights.texture * masked_l1(canonical.albedo, target, inside)
      canonical = textured
    sides = 2 if flip else 1
    if flip:
      both = (jnp.concatenate([x, jnp.flip(x, 2)]) for x in (canonical.depth, canonical.albedo))
      canonical = model.with_normals(*both)
      views, lights = jnp.tile(views, (2, 1)), jnp.tile(lights, (2, 1))
    texture, _ = shade(jax.tree.map(lambda x: jnp.repeat(x, m, 0), canonical), lights)
    rendered = model.render_view(jnp.repeat(canonical.depth, m, 0), texture, views)
    # Both the relief and its mirror image are compared only where both are visible.
    valid = jnp.prod(rendered.valid.reshape(sides, k, m, *rendered.valid.shape[1:]), 0)
    mask = mask * valid
    for prefix, part in {"": slice(0, 1), "samples_": slice(1, None)}.items():
      if part.start >= m:
        continue
      for side in rendered.image.reshape(sides, *image.shape):
        for name, value in self._image_terms(side[:, part], image[:, part], mask[:, part]).items():
          terms[prefix + name] = terms.get(prefix + name, 0.0) + value
    if joint and weights.smooth:
      own_lights = lights.reshape(sides * k, m, 4)[:, 0]
      shading = lambert_cosines(canonical.normals, own_lights[:, None, None])
      terms["smooth"] = weights.smooth * (smoothness(canonical.depth) + smoothness(shading))
    return terms

  def _depth_terms(self, depth: Array, prior: Array) -> dict[str, Array]:
    """Terms that hold depth, without its border, near the prior shape."""
    weights, terms = self.objectives, {}
    if weights.depth_prior:
      error = (depth - prior) / (self.masks.far - self.masks.near)
      terms["depth_prior"] = weights.depth_prior * jnp.mean(error**2)
    if weights.depth_scale:
      terms["depth_scale"] = weights.depth_scale * depth_scale_error(depth, prior)
    return terms

  def _image_terms(self, image: Array, target: Array, mask: Array) -> dict[str, Array]:
    terms = {"l1": masked_l1(image, target, mask)}
    if self.perceptual is not None:
      flat = [(x * mask[..., None]).reshape(-1, *x.shape[2:]) for x in (image, target)]
      terms["perceptual"] = self.objectives.perceptual * jnp.mean(self.perceptual(*flat))
    return terms


def depth_scale_error(depth: Float[Array, "b s s"], prior: Float[Array, "b s s"]) -> Float[Array, ""]:
  """Mean squared relative error of the depth maps' standard deviations against the prior's."""

  def deviation(maps: Array) -> Array:
    return jnp.sqrt(jnp.var(maps, (1, 2)) + 1e-12)  # keeps the gradient of a flat map finite

  return jnp.mean((deviation(depth) / deviation(prior) - 1) ** 2)
