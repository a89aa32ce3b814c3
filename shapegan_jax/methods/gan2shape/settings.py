"""Settings of GAN2Shape: one dataclass per config section, with the functions that depend on that section alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from shapegan_jax.errors import UserError
from shapegan_jax.geometry.ellipsoid import BoxChange, background_mask, centred_ellipse, ellipsoid_depth
from shapegan_jax.geometry.relief import lights_to_world
from shapegan_jax.methods.stylegan2.method import StyleGan2
from shapegan_jax.methods.stylegan2.settings import ExportConfig
from shapegan_jax.networks.stylegan2 import Mapping as StyleMapping
from shapegan_jax.networks.stylegan2 import Synthesis
from shapegan_jax.networks.stylegan2_discriminator import Discriminator
from shapegan_jax.rendering.shading import GaussianLights
from shapegan_jax.types import Key, record


@dataclasses.dataclass(frozen=True)
class InstanceConfig:
  """The input images of a run to which none are given: samples of the generator.

  Args:
    count: how many.
    truncation: of their latents; 1: none.
    candidates: samples per image (ours): those are kept whose masks' centroids are nearest to the mean centroid.
    instance_specific: every instance has its own weights; otherwise all instances share one set.
  """

  count: int = 200
  truncation: float = 1.0
  candidates: int = 1
  instance_specific: bool = False

  def __post_init__(self):
    if self.count < 1 or self.candidates < 1:
      raise UserError("config.instances: count and candidates must be at least 1")


@dataclasses.dataclass(frozen=True)
class GanNetwork:
  """The sections of a StyleGAN2's own config that determine its networks."""

  mapping: StyleMapping
  synthesis: Synthesis
  discriminator: Discriminator
  export: ExportConfig = dataclasses.field(default_factory=ExportConfig)


@dataclasses.dataclass(frozen=True)
class GanConfig:
  """The frozen StyleGAN2.

  Args:
    network: filled in from the model; without a model, the size of an untrained one.
    model: a name, workdir or file as `--model` takes it; "": untrained.
    tail: where an offset enters the mapping network, counted as published (`FrozenGan.offset`): `tail` + 1 linear
      layers follow; if `tail` is the number of layers, all of them and the normalisation; with -1 (ours) none, so that
      offsets are added to styles directly.
    relative: subtract the offset that the encoder predicts for the GAN's reconstruction of the input image (published
      for faces and cats).
    crop: the central part of the GAN's images that the method uses, as a fraction of their width.
    refine: steps of Adam on the offset of each pseudo sample before it is projected (ours).
    directions: initialise these steps by linear directions of view and light (`latent_directions`) instead of the
      encoder's offset. Instance-specific training needs trained networks for this; without them the steps start from
      the instance's own latent.
  """

  network: GanNetwork | None = None
  model: str = ""
  tail: int = 2
  relative: bool = True
  crop: float = 1.0
  refine: int = 0
  directions: bool = False

  def resized(self, image: Float[Array, "b r r 3"], size: int) -> Float[Array, "b size size 3"]:
    """The central crop of images, enlarged bilinearly or shrunk with antialiasing (theirs: area averaging)."""
    resolution = image.shape[1]
    if resolution == size and self.crop == 1:
      return image
    scale = size / (resolution * self.crop)
    shift = jnp.full(2, (size - resolution * scale) / 2)
    shape = (image.shape[0], size, size, 3)
    return jax.image.scale_and_translate(image, shape, (1, 2), jnp.full(2, scale), shift, "linear")


def untrained_gan(network: Mapping[str, Any]) -> StyleGan2:
  """A StyleGAN2 of the size that the config sections mapping, synthesis and discriminator give."""
  if missing := [name for name in ("mapping", "synthesis", "discriminator") if name not in network]:
    raise UserError(f"config.gan.network.{missing[0]}: is missing; copy this section from the config of the StyleGAN2")
  resolution = 2 ** (1 + len(network["synthesis"]["channels"]))
  return StyleGan2.from_config({**network, "stages": {"resolution": (resolution,)}})


@dataclasses.dataclass(frozen=True)
class MaskConfig:
  """The object mask, and the ellipsoid prior placed in it (`geometry.ellipsoid`).

  Args:
    kind: how images without a given mask are masked. "background": where they differ from a constant colour by
      `threshold` (of [0, 1]); "ellipse": a centred ellipse with half axes `radii` (across, down).
    background: that colour, in [-1, 1], which also fills the background of pseudo samples; None: it is estimated, and
      pseudo samples keep the rendered background.
    in_loss: restrict the losses to the mask (published for cars and churches), and show only what is inside it.
    near, far: depths of the ellipsoid's nearest point and of everything around it.
    radius: of the sphere whose cap it is; with `radius` = far - near it is half an ellipsoid.
    shared: one ellipsoid for all images (ours), fitted to the pixels that at least half of the masks contain. The
      bounding box of a single mask depends on the view of the object.
    up, down, sides, to_bottom: how the mask's bounding box is adjusted first (`BoxChange`).
  """

  kind: str = "ellipse"
  threshold: float = 0.06
  radii: tuple[float, float] = (0.7, 0.9)
  background: float | None = None
  in_loss: bool = False
  near: float = 0.91
  far: float = 1.02
  radius: float = 0.4
  shared: bool = False
  up: float = 0.0
  down: float = 0.0
  sides: float = 0.0
  to_bottom: bool = False

  def __post_init__(self):
    if self.kind not in ("background", "ellipse"):
      raise UserError(f"config.masks.kind: {self.kind!r} is not one of background, ellipse")

  def of(self, image: Float[Array, "b s s 3"]) -> Float[Array, "b s s"]:
    """The masks of images in [-1, 1]."""
    if self.kind == "background":
      return background_mask(image, color=self.background, threshold=self.threshold)
    return jnp.broadcast_to(centred_ellipse(image.shape[1], self.radii)[None], image.shape[:3])

  def prior(self, mask: Float[Array, "b s s"], *, released: bool = False) -> Float[Array, "b s s"]:
    """The ellipsoid in each mask; with `released`, placed as in the authors' code."""
    box = BoxChange(self.up, self.down, self.sides, self.to_bottom)
    meaning = "released" if released else "paper"
    if self.shared:
      mask = jnp.broadcast_to(jnp.mean(mask, 0, keepdims=True) >= 0.5, mask.shape)
    return ellipsoid_depth(mask, near=self.near, far=self.far, radius=self.radius, box=box, meaning=meaning)

  def on_background(self, image: Float[Array, "b s s 3"], mask: Float[Array, "b s s"]) -> Float[Array, "b s s 3"]:
    """Images composited over `background`, or unchanged if that is None."""
    if self.background is None:
      return image
    return self.background + mask[..., None] * (image - self.background)


@dataclasses.dataclass(frozen=True)
class Objectives:
  """Loss weights. LPIPS is used if `perceptual_net` names its network ("vgg16" as published), whose weights come with
  an optional dependency. The last six are ours (`methods.gan2shape.method`); 0 as published.

  Args:
    perceptual, perceptual_net: LPIPS between renderings and images, in steps 1 and 3.
    smooth: second differences of depth and shading.
    features: discriminator features of projected and pseudo samples, in step 2.
    regular: squared norm of the latent offsets, in step 2.
    texture: the albedo network's error where the input image itself is the texture of pseudo samples and of step 3; 0:
      the predicted albedo is the texture.
    latent_regression: error of the offsets between images of known latents, in step 2.
    moment_matching: mean and standard deviation of predicted views and lights against the priors', in "pose_warmup"
      and in step 3.
    depth_prior: squared distance from the prior depth in units of the prior's depth range, in step 3.
    depth_scale: relative error of the depth maps' standard deviation against the prior's, in step 3.
    pose_consistency: error of the views and lights predicted for projected samples against those of their pseudo
      samples, in step 3.
  """

  perceptual: float = 0.5
  perceptual_net: str = ""
  smooth: float = 0.01
  features: float = 1.0
  regular: float = 0.01
  texture: float = 0.0
  latent_regression: float = 0.0
  moment_matching: float = 0.0
  depth_prior: float = 0.0
  depth_scale: float = 0.0
  pose_consistency: float = 0.0


@dataclasses.dataclass(frozen=True)
class LightConfig:
  """The lights of pseudo samples: direction (U(x), U(y), 1); with u ~ U(strength), diffuse light u above, and ambient
  light `ambient` * u above, that of the input image.

  With a `mean` [4] and a `covariance` [4, 4] (ours) they are sampled from that Gaussian of `types.Lights` codes (in the
  world frame) instead, whatever the light of the input image.
  """

  x: tuple[float, float] = (-1.0, 1.0)
  y: tuple[float, float] = (-0.2, 0.8)
  strength: tuple[float, float] = (-0.1, 0.6)
  ambient: float = -0.6
  mean: tuple[float, ...] = ()
  covariance: tuple[tuple[float, ...], ...] = ()

  def __post_init__(self):
    if bool(self.mean) != bool(self.covariance):
      raise UserError("config.lights: a light prior needs both a mean (4 numbers) and a covariance (4 x 4)")

  @property
  def prior(self) -> GaussianLights | None:
    """The Gaussian light prior, or None."""
    return GaussianLights(np.array(self.mean), np.array(self.covariance)) if self.mean else None

  def mean_and_std(self) -> tuple[Float[Array, "4"], Float[Array, "4"]]:
    """(mean, standard deviation) of the prior's light codes, in the frame of `geometry.relief`."""
    return lights_to_world(jnp.array(self.mean)), jnp.sqrt(jnp.diagonal(jnp.array(self.covariance)))

  def sample(self, key: Key, own: Float[Array, "n 4"]) -> Float[Array, "n 4"]:
    """Light codes of pseudo samples (frame of `geometry.relief`), given those of their input images."""
    if self.prior is not None:
      return lights_to_world(self.prior.sample(key, own.shape[:1]).code)
    low, high = (jnp.array(ends).reshape(1, 3) for ends in zip(self.strength, self.x, self.y, strict=True))
    sampled = low + (high - low) * jax.random.uniform(key, (own.shape[0], 3))
    u = sampled[:, :1]
    return jnp.concatenate([own[:, :1] + 2 * self.ambient * u, own[:, 1:2] + 2 * u, sampled[:, 1:]], -1)


@record
class ViewPrior:
  """A Gaussian of views, mean + root @ e with e standard normal, in the view network's units."""

  mean: Array  # [6]
  root: Array  # [6, 6], root @ root.T is the covariance


@dataclasses.dataclass(frozen=True)
class ViewConfig:
  """The views of pseudo samples: a Gaussian in the view network's units; sampled yaws are multiplied by `scale`.

  Components are independent with standard deviations `deviation`, unless a `covariance` [6, 6] is given. With
  `estimate` the mean and covariance are those of the views predicted for the input images, from the second round on,
  or from the start if trained networks are given.
  """

  mean: tuple[float, ...] = (0.0,) * 6
  deviation: tuple[float, ...] = (0.1, 0.35, 0.05, 0.1, 0.1, 0.0)
  covariance: tuple[tuple[float, ...], ...] = ()
  scale: float = 1.0
  estimate: bool = False

  def __post_init__(self):
    if len(self.mean) != 6 or len(self.deviation) != 6 or np.shape(self.covariance) not in ((0,), (6, 6)):
      raise UserError("config.views: mean and deviation are 6 numbers (pitch, yaw, roll, x, y, z), covariance 6 x 6")

  def configured_prior(self) -> ViewPrior:
    """The view prior of the config."""
    covariance = np.array(self.covariance) if self.covariance else np.diag(np.square(self.deviation))
    return ViewPrior(jnp.array(self.mean), _covariance_root(jnp.asarray(covariance, jnp.float32)))

  def estimated_prior(self, views: Float[Array, "n 6"]) -> ViewPrior:
    """The view prior with the empirical mean and covariance of many views."""
    mean = jnp.mean(views, 0)
    centred = views - mean[None]
    return ViewPrior(mean, _covariance_root(centred.T @ centred / max(views.shape[0] - 1, 1)))

  def sample(self, key: Key, prior: ViewPrior, n: int) -> Float[Array, "n 6"]:
    """[n] views in the view network's units."""
    noise = jax.random.normal(key, (n, 6))
    views = prior.mean[None] + jnp.matmul(noise, prior.root.T, precision=jax.lax.Precision.HIGHEST)
    return views.at[:, 1].multiply(self.scale)


def _covariance_root(covariance: Float[Array, "6 6"]) -> Float[Array, "6 6"]:
  """A square root by eigendecomposition: the covariance may be singular."""
  values, vectors = jnp.linalg.eigh(covariance)
  return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]
