"""Inversion: codes, pose and light whose rendering reproduces a given photograph.

Adam moves the codes (the field's modulations, as pi-GAN and ShadeGAN published it), the pose and the light, all in the
generator's own statistics (`inversion.latent_space`): first at low resolution from several poses, then from the best of
these at higher resolutions. For rgb and photograph in [0, 1] it minimises

  mean (rgb - photograph)^2 + perceptual LPIPS + prior (|codes|^2 + |light|^2).

Departures from ShadeGAN's script: its regulariser, the squared distance of frequencies and phases from their means, is
taken along the principal axes of the codes (a Mahalanobis distance), includes the light, and weakens from stage to
stage; the pose, which gets no gradient there, is optimised; and the best iterate is kept instead of the last one.
Searching latents instead of codes was tried on five pictures of heads and came no closer to poses or photographs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from shapegan_jax.data.images import resample
from shapegan_jax.errors import UserError
from shapegan_jax.inversion.encoder import Encoder
from shapegan_jax.inversion.latent_space import CodeSpace, Point, measure
from shapegan_jax.model import Model
from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance
from shapegan_jax.types import Array, Cameras, Codes, Lights, PyTree, Rendering, Scene

_PER_CALL = 10  # steps between reports of progress
_SMALLEST = 8  # resolution of the smallest pictures that are compared
_SMALLEST_PERCEPTUAL = 32  # resolution that the perceptual network needs


@dataclasses.dataclass(frozen=True)
class InversionStage:
  """`steps` at the model's resolution / `shrink`, with `prior` times the weight of the regulariser."""

  shrink: int
  steps: int
  prior: float = 1.0


@dataclasses.dataclass(frozen=True)
class InversionConfig:
  """Settings of the search.

  The first stage starts from each of `yaws` (in standard deviations of the pose prior) with the mean code, and from the
  encoder's prediction; later stages start from the best result so far. `samples` per ray and pass while optimising.
  `rate` falls to a twentieth over each stage, as a cosine. `prior` and `perceptual` are weights; see the module's
  docstring.
  """

  yaws: tuple[float, ...] = (-1.5, -0.5, 0.5, 1.5)
  stages: tuple[InversionStage, ...] = (
    InversionStage(4, 50, prior=10.0),
    InversionStage(2, 100, prior=3.0),
    InversionStage(1, 60),
  )
  samples: int = 12
  rate: float = 0.1
  prior: float = 1e-5
  perceptual: float = 0.0

  @property
  def total_steps(self) -> int:
    """Of all stages."""
    return sum(stage.steps for stage in self.stages)

  def lasting(self, steps: int) -> InversionConfig:
    """The same with about `steps` steps in total, distributed over the stages as before."""
    share = steps / self.total_steps
    stages = tuple(dataclasses.replace(stage, steps=max(1, round(share * stage.steps))) for stage in self.stages)
    return dataclasses.replace(self, stages=stages)


@dataclasses.dataclass(frozen=True)
class Inversion:
  """The result for n photographs."""

  codes: Codes
  cameras: Cameras
  lights: Lights | None
  losses: np.ndarray  # [steps, n] the objective at each step after the first stage, which has several starts
  psnr: np.ndarray  # [n] dB, over pictures in [0, 1]
  rendering: Rendering  # [n, resolution, resolution], with all of the model's samples


class Inverter:
  """Finds photographs in a model. Its programs are compiled once per number of photographs."""

  def __init__(self, model: Model, config: InversionConfig | None = None, *, encoder: Encoder | None = None):
    """Args:
    model: the generator (`shapegan_jax.load`).
    config: settings of the search.
    encoder: its prediction is one more start of the search.

    Raises:
      UserError: the perceptual term is used, but its weights are not installed or the model's pictures are too small.
    """
    self.model, self.config, self.encoder = model, config or InversionConfig(), encoder
    self.space: CodeSpace = measure(model.method, model.params)
    self._net = None
    if self.config.perceptual:
      if model.resolution < _SMALLEST_PERCEPTUAL:
        raise UserError(
          f"perceptual: the model's pictures are smaller than {_SMALLEST_PERCEPTUAL} pixels; leave it out"
        )
      self._net = load_perceptual("alexnet")
    # Fewer samples suffice for the direction of descent.
    self._method = model.method.with_eval_samples(self.config.samples)
    self._adam = optax.scale_by_adam(b2=0.99)
    self._advance = jax.jit(self._some_steps, static_argnames=("resolution",))

  def __call__(
    self, pictures: Float[np.ndarray, "n r r 3"], *, progress: Callable[[int], object] = lambda done: None
  ) -> Inversion:
    """Invert photographs in [0, 1] independently. They have the model's resolution and background.

    `progress` is called with the number of steps done since its last call, `config.total_steps` in total.
    """
    if pictures.shape[1] != self.model.resolution:
      raise ValueError(f"pictures of {pictures.shape[1]} pixels given, the model's {self.model.resolution} needed")
    n, history = len(pictures), []
    starts = self._starts(pictures)
    point = jax.tree.map(lambda *points: jnp.concatenate(points), *starts)
    for index, stage in enumerate(self.config.stages):
      targets = np.concatenate([pictures] * len(starts)) if index == 0 else pictures
      point, best, losses = self._stage(point, targets, stage, progress)
      if index == 0:
        chosen = np.argmin(best.reshape(len(starts), n), 0) * n + np.arange(n)
        point = jax.tree.map(lambda x, rows=chosen: x[rows], point)
      else:
        history.append(losses)
    codes, lights = self.space.codes(point), self.space.lights(point)
    cameras = self.model.cameras_at(*self.space.angles(point))
    rendering = self.model.render(codes, cameras, lights, resolution=self.model.resolution)
    return Inversion(
      codes=codes,
      cameras=cameras,
      lights=lights,
      losses=np.concatenate(history) if history else np.zeros((0, n)),
      psnr=psnr(np.asarray(rendering.rgb), pictures),
      rendering=rendering,
    )

  def _starts(self, pictures: Float[np.ndarray, "n r r 3"]) -> list[Point]:
    """Points [n] at which the search starts."""
    centre = self.space.centre(len(pictures))
    starts = [dataclasses.replace(centre, pose=centre.pose.at[:, 0].set(yaw)) for yaw in self.config.yaws]
    if self.encoder is not None:
      starts.append(self.space.point(*self.encoder(pictures, self.model)))
    return starts

  def _stage(
    self,
    point: Point,
    pictures: Float[np.ndarray, "n r r 3"],
    stage: InversionStage,
    progress: Callable[[int], object],
  ) -> tuple[Point, np.ndarray, np.ndarray]:
    """(best point, its objective [n], the objective at each step [steps, n])."""
    resolution = max(self.model.resolution // stage.shrink, min(_SMALLEST, self.model.resolution))
    targets = jnp.asarray(resample(pictures, resolution))
    carry = (point, self._adam.init(point), point, jnp.full(len(pictures), jnp.inf))
    losses = []
    for first in range(0, stage.steps, _PER_CALL):
      many = min(_PER_CALL, stage.steps - first)
      span = jnp.array([first, many, stage.steps])
      weight = jnp.float32(self.config.prior * stage.prior)
      carry, each = self._advance(self.model.params, self.space, carry, targets, weight, span, resolution=resolution)
      losses.append(np.asarray(each[:many]))
      progress(many)
    return carry[2], np.asarray(carry[3]), np.concatenate(losses)

  def _some_steps(
    self,
    params: PyTree,
    space: CodeSpace,
    carry: PyTree,
    targets: Array,
    weight: Array,
    span: Array,
    *,
    resolution: int,
  ) -> tuple[PyTree, Array]:
    """Steps `span[0]` to `span[0] + span[1]` (at most `_PER_CALL`) of `span[2]`."""
    first, many, total = span

    def objective(point: Point) -> tuple[Array, Array]:
      cameras, lights = self._method.cameras_at(*space.angles(point)), space.lights(point)
      rgb = self._method.render(params, Scene(space.codes(point), cameras, lights), resolution=resolution).rgb
      each = jnp.mean((rgb - targets) ** 2, (1, 2, 3)) + weight * jnp.sum(point.codes**2, -1)
      if point.light is not None:
        each = each + weight * jnp.sum(point.light**2, -1)
      if self._net is not None and resolution >= _SMALLEST_PERCEPTUAL:
        each = each + self.config.perceptual * perceptual_distance(self._net, 2 * rgb - 1, 2 * targets - 1)
      return jnp.sum(each), each  # photographs are independent, so the gradient of the sum is that of each

    def step(i: Array, state: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
      (point, moments, best, least), losses = state
      (_, each), gradient = jax.value_and_grad(objective, has_aux=True)(point)
      better = each < least
      best = jax.tree.map(lambda new, old: jnp.where(better[:, None], new, old), point, best)
      direction, moments = self._adam.update(gradient, moments)
      rate = self.config.rate * (0.05 + 0.475 * (1 + jnp.cos(jnp.pi * (first + i) / total)))
      point = jax.tree.map(lambda x, d: x - rate * d, point, direction)
      return (point, moments, best, jnp.where(better, each, least)), losses.at[i].set(each)

    return jax.lax.fori_loop(0, many, step, (carry, jnp.zeros((_PER_CALL, targets.shape[0]))))


def psnr(pictures: Float[np.ndarray, "n h w 3"], references: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
  """Peak signal-to-noise ratio in dB of pictures in [0, 1]; 120 where they are the same."""
  error = np.mean((np.asarray(pictures, np.float64) - references) ** 2, (1, 2, 3))
  return -10 * np.log10(np.maximum(error, 1e-12))
