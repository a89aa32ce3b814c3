"""Settings of GAN2Shape: one dataclass per config section, with what follows from it alone."""

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
from shapegan_jax.rendering.shading import GaussianLights
from shapegan_jax.types import Key, record


@dataclasses.dataclass(frozen=True)
class SubjectConfig:
  """Whose shapes are wanted, where no subjects are handed in: `count` pictures that the generator draws from the run's
  seed (1: its whole prior), of `candidates` times as many (ours) those whose masks' centroids are nearest to the mean.
  `instance` gives each subject weights of its own, otherwise all share one set."""

  count: int = 200
  truncation: float = 1.0
  candidates: int = 1
  instance: bool = False

  def __post_init__(self):
    if self.count < 1 or self.candidates < 1:
      raise UserError("config.subjects: count and candidates must be at least 1")


@dataclasses.dataclass(frozen=True)
class GanConfig:
  """The StyleGAN2 that pictures are corrected by. The section's `network` holds its own config's sections (mapping,
  synthesis, discriminator): they are filled in from the model, and make an untrained one of this size where there is
  none.

  Args:
    model: a name, workdir or file as `--model` takes it; "": untrained.
    tail: where an offset enters the mapping network, counted as published (`FrozenGan.offset`): `tail` + 1 linear
      layers follow; with as many as the network has, all of them and the normalisation before; with -1 (ours) none:
      offsets are of styles.
    relative: take offsets relative to that of the generator's own picture (faces and cats as published).
    crop: the part of its picture's width, about the centre, that the method sees.
    refine: steps of Adam on each drawing's own offset before its picture is kept (ours).
    directions: these begin where linear directions of views and lights lead, and not at the encoder's answer. Instances
      need trained networks for that: without, they begin at the subject.
  """

  model: str = ""
  tail: int = 2
  relative: bool = True
  crop: float = 1.0
  refine: int = 0
  directions: bool = False

  def resized(self, image: Float[Array, "b r r 3"], size: int) -> Float[Array, "b size size 3"]:
    """The middle of pictures, enlarged bilinearly or shrunk with antialiasing (theirs: the mean over areas)."""
    resolution = image.shape[1]
    if resolution == size and self.crop == 1:
      return image
    scale = size / (resolution * self.crop)
    shift = jnp.full(2, (size - resolution * scale) / 2)
    shape = (image.shape[0], size, size, 3)
    return jax.image.scale_and_translate(image, shape, (1, 2), jnp.full(2, scale), shift, "linear")


def untrained_gan(network: Mapping[str, Any]) -> StyleGan2:
  """A StyleGAN2 of the size that config sections (mapping, synthesis, discriminator) say."""
  if missing := [name for name in ("mapping", "synthesis", "discriminator") if name not in network]:
    raise UserError(f"config.gan.network.{missing[0]}: is not set; it is this section of the StyleGAN2's own config")
  resolution = 2 ** (1 + len(network["synthesis"]["channels"]))
  return StyleGan2.from_config({**network, "stages": {"resolution": (resolution,)}})


@dataclasses.dataclass(frozen=True)
class MaskConfig:
  """Where the object is, and the ellipsoid that is put there (`geometry.ellipsoid`).

  Args:
    kind: of pictures without a mask of their own. "background": where they differ from a constant colour by
      `threshold` of [0, 1]; "ellipse": an ellipse about the centre with half axes `radii` (across, down).
    background: that colour, in [-1, 1], of which step 2's drawings then are outside of the mask; None: it is looked
      for, and drawings show what the relief has there.
    in_loss: only the mask counts in the losses (cars and churches as published), and only it is shown.
    near, far: depths of the ellipsoid's summit and of everything around it.
    radius: of the sphere whose cap it is; with far - near it is half an ellipsoid.
    shared: one ellipsoid for all (ours): that of the places which most masks hold. A mask's own box is that of a view
      of the object, and not of the front.
    up, down, sides, to_bottom: how the mask's box is changed before (`BoxChange`).
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
    """The masks of pictures in [-1, 1]."""
    if self.kind == "background":
      return background_mask(image, color=self.background, threshold=self.threshold)
    return jnp.broadcast_to(centred_ellipse(image.shape[1], self.radii)[None], image.shape[:3])

  def prior(self, mask: Float[Array, "b s s"], *, released: bool = False) -> Float[Array, "b s s"]:
    """The ellipsoid in each mask; `released`: where the authors' code puts it."""
    box = BoxChange(self.up, self.down, self.sides, self.to_bottom)
    meaning = "released" if released else "paper"
    if self.shared:
      mask = jnp.broadcast_to(jnp.mean(mask, 0, keepdims=True) >= 0.5, mask.shape)
    return ellipsoid_depth(mask, near=self.near, far=self.far, radius=self.radius, box=box, meaning=meaning)

  def on_background(self, image: Float[Array, "b s s 3"], mask: Float[Array, "b s s"]) -> Float[Array, "b s s 3"]:
    """The pictures, of `background` where the mask is 0."""
    if self.background is None:
      return image
    return self.background + mask[..., None] * (image - self.background)


@dataclasses.dataclass(frozen=True)
class Objectives:
  """Weights of the losses. LPIPS counts where `perceptual_net` names its network ("vgg16" as published), whose weights
  are an extra. The last six are ours (`methods.gan2shape.method`); 0 as published.

  Args:
    texture: of what the albedo network has to learn, where pictures themselves are the texture of drawings and of step
      3; 0: what the network says is the texture.
    latents: of offsets between pictures whose styles are known, in step 2.
    moments: of the mean and deviation of views and lights, in "reading" and in step 3.
    anchor: of the prior shape, in step 3, in units of its height.
    height: of the depth maps' deviation, as a part of the prior shape's, in step 3.
    asked: of the views and lights that drawings were asked for, read off the generator's pictures of them, in step 3.
  """

  perceptual: float = 0.5
  perceptual_net: str = ""
  smooth: float = 0.01
  features: float = 1.0
  regular: float = 0.01
  texture: float = 0.0
  latents: float = 0.0
  moments: float = 0.0
  anchor: float = 0.0
  height: float = 0.0
  asked: float = 0.0


@dataclasses.dataclass(frozen=True)
class Relighting:
  """The lights of step 2's drawings: direction (U(x), U(y), 1); with u from U(strength), u more diffuse and
  `ambient` * u more ambient light than the subject's own.

  With a `mean` [4] and a `covariance` [4, 4] (ours) they are drawn from that Gaussian of `types.Lights` codes instead,
  those of the world's frame, whatever the subject's own light is.
  """

  x: tuple[float, float] = (-1.0, 1.0)
  y: tuple[float, float] = (-0.2, 0.8)
  strength: tuple[float, float] = (-0.1, 0.6)
  ambient: float = -0.6
  mean: tuple[float, ...] = ()
  covariance: tuple[tuple[float, ...], ...] = ()

  def __post_init__(self):
    if bool(self.mean) != bool(self.covariance):
      raise UserError("config.lights: a prior needs both a mean (4 numbers) and a covariance (4 x 4)")

  @property
  def prior(self) -> GaussianLights | None:
    """The Gaussian, if one is given."""
    return GaussianLights(np.array(self.mean), np.array(self.covariance)) if self.mean else None

  def moments(self) -> tuple[Float[Array, "4"], Float[Array, "4"]]:
    """(mean, deviation) of the given prior's light codes, in the frame of `geometry.relief`."""
    return lights_to_world(jnp.array(self.mean)), jnp.sqrt(jnp.diagonal(jnp.array(self.covariance)))

  def sample(self, key: Key, own: Float[Array, "n 4"]) -> Float[Array, "n 4"]:
    """Light codes (frame of `geometry.relief`) of drawings, from those of their subjects."""
    if self.prior is not None:
      return lights_to_world(self.prior.sample(key, own.shape[:1]).code)
    low, high = (jnp.array(ends).reshape(1, 3) for ends in zip(self.strength, self.x, self.y, strict=True))
    drawn = low + (high - low) * jax.random.uniform(key, (own.shape[0], 3))
    u = drawn[:, :1]
    return jnp.concatenate([own[:, :1] + 2 * self.ambient * u, own[:, 1:2] + 2 * u, drawn[:, 1:]], -1)


@record
class ViewPrior:
  """A Gaussian: mean + root e with e standard normal, in a view network's units."""

  mean: Array  # [6]
  root: Array  # [6, 6]


@dataclasses.dataclass(frozen=True)
class Views:
  """The views of step 2's drawings: a Gaussian in a view network's units, whose yaw is then multiplied by `scale`.

  Independent with `deviation`, unless a `covariance` [6, 6] is given. With `estimate` it is, from the second round on
  or where trained networks are handed in, that of the views the view network finds the subjects in.
  """

  mean: tuple[float, ...] = (0.0,) * 6
  deviation: tuple[float, ...] = (0.1, 0.35, 0.05, 0.1, 0.1, 0.0)
  covariance: tuple[tuple[float, ...], ...] = ()
  scale: float = 1.0
  estimate: bool = False

  def __post_init__(self):
    if len(self.mean) != 6 or len(self.deviation) != 6 or np.shape(self.covariance) not in ((0,), (6, 6)):
      raise UserError("config.views: mean and deviation are 6 numbers (pitch, yaw, roll, x, y, z), covariance 6 x 6")

  def given(self) -> ViewPrior:
    """The prior of the config."""
    covariance = np.array(self.covariance) if self.covariance else np.diag(np.square(self.deviation))
    return ViewPrior(jnp.array(self.mean), _root(jnp.asarray(covariance, jnp.float32)))

  def measured(self, views: Float[Array, "n 6"]) -> ViewPrior:
    """The prior with the mean and covariance of views, of which there should be many."""
    mean = jnp.mean(views, 0)
    away = views - mean[None]
    return ViewPrior(mean, _root(away.T @ away / max(views.shape[0] - 1, 1)))

  def sample(self, key: Key, prior: ViewPrior, n: int) -> Float[Array, "n 6"]:
    """Views in a view network's units."""
    noise = jax.random.normal(key, (n, 6))
    views = prior.mean[None] + jnp.matmul(noise, prior.root.T, precision=jax.lax.Precision.HIGHEST)
    return views.at[:, 1].multiply(self.scale)


def _root(covariance: Float[Array, "6 6"]) -> Float[Array, "6 6"]:
  """By eigenvalues: there may be directions without variance."""
  values, vectors = jnp.linalg.eigh(covariance)
  return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]
