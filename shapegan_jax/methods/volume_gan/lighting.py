"""The multi-lighting constraint as a part: a prior of lights, and shading that fades in (ShadeGAN, section 3.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np

from shapegan_jax.errors import UserError
from shapegan_jax.rendering.shading import GaussianLights, lambertian
from shapegan_jax.schedules import ramp
from shapegan_jax.sections import Natural
from shapegan_jax.types import Array, Key, Lights, Shader


@dataclasses.dataclass(frozen=True)
class LightConfig:
  """The prior of the four light numbers: `prior` "gaussian" with `mean` [4] and `covariance` [4, 4].

  "fitted" stands for the set's own lights and becomes numbers before the method is built (`methods.catalog.resolve`).
  `ramp` gives the steps between which shading fades in.
  """

  prior: Literal["gaussian", "fitted"] = "gaussian"
  mean: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
  covariance: tuple[tuple[float, float, float, float], ...] = ()
  ramp: tuple[Natural, Natural] = (5000, 7000)


@dataclasses.dataclass(frozen=True)
class Lighting:
  """Lights drawn from `prior`; shading fades in over the steps `ramp`."""

  prior: GaussianLights
  ramp: tuple[int, int]

  @classmethod
  def of(cls, lights: LightConfig) -> Lighting:
    """From the section `lights`.

    Raises:
      UserError: its prior is not made of numbers.
    """
    if lights.prior != "gaussian" or len(lights.mean) != 4 or len(lights.covariance) != 4:
      raise UserError(
        "config.lights: a built method needs prior='gaussian' with 4 means and a 4x4 covariance; "
        "prior='fitted' works when the data set carries lights"
      )
    return cls(GaussianLights(mean=np.array(lights.mean), cov=np.array(lights.covariance)), tuple(lights.ramp))

  def anneals(self, step: int) -> dict[str, float]:
    """`shading_ratio`: 0 before the ramp, 1 after it."""
    start, end = self.ramp
    return {"shading_ratio": ramp(step, start, end) if end > 0 else 1.0}

  def shader(self, anneals: Mapping[str, Array]) -> Shader:
    """The shader of a training step."""
    return partial(lambertian, ratio=anneals["shading_ratio"])

  def sample(self, key: Key | None, n: int) -> Lights:
    """[n] lights; `key=None` gives the mean light."""
    return self.prior.sample(key, (n,))

  def given_or_mean(self, lights: Lights | None, n: int) -> Lights:
    """The lights given, or [n] mean lights."""
    return self.sample(None, n) if lights is None else lights
