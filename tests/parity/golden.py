"""The published code's numbers, and how near ours must come.

`tests/goldens/*_hidden32.npz` hold a generator's weights under our names (`field/...`) and what the published PyTorch
code answered (`expected/...`): float32 on a CPU, no jitter, importance samples at linspace(0, 1, n), no density noise.
`mapping_hidden32.npz` is the mapping network of both the pi-GAN and the GOF one. Where the environment variable
SHAPEGAN_GOLDENS names the folder they were shrunk from, the same tests run on its original checkpoint files too.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.convert.pigan_family import read_generator
from shapegan_jax.geometry.cameras import from_polar, orbit_cameras
from shapegan_jax.methods.volume_gan.generators import SirenGenerator
from shapegan_jax.rendering.compositing import weights_from_alphas
from shapegan_jax.rendering.volume import Compositor
from shapegan_jax.types import Array, Cameras, Rendering

SHIPPED = Path(__file__).parents[1] / "goldens"
VARIABLE = "SHAPEGAN_GOLDENS"

VALUES = 2e-4  # of the largest magnitude, for what is computed without a discrete choice
PICTURES = 1e-3  # of the largest magnitude, but for
FLIPPED = 0.005  # of the pixels, in which a discrete choice (a bin, an order, a sign) fell otherwise


@dataclasses.dataclass(frozen=True)
class Golden:
  """A generator with random weights and what the published code made of it."""

  params: dict[str, Any]
  expected: dict[str, np.ndarray]

  @property
  def width(self) -> int:
    return self.params["field"]["density_head"]["kernel"].shape[0]

  @property
  def cameras(self) -> Cameras:
    yaw, pitch = from_polar(jnp.asarray(self.expected["pitch"][:, 0]), jnp.asarray(self.expected["yaw"][:, 0]))
    return orbit_cameras(yaw, pitch, fov=jnp.deg2rad(12.0))

  def build(self, cls: Any, config: dict[str, Any]) -> Any:
    """The method of a config whose codes are the fixture's."""
    method = cls.from_config(config)
    codes = FixedCodes(method.generator.mapping, method.generator.field, self)
    return dataclasses.replace(method, generator=codes)


@dataclasses.dataclass(frozen=True)
class FixedCodes(SirenGenerator):
  """A generator that knows the codes of two latents and the fixture's own averages (ours are over other latents)."""

  golden: Golden

  def codes(self, params: Any, latents: Array, *, truncation: float = 1.0) -> tuple[Array, Array]:
    del params, latents
    expected = self.golden.expected
    pairs = (("frequencies", "avg_frequencies"), ("phase_shifts", "avg_phase_shifts"))
    return tuple(jnp.asarray(expected[mean] + truncation * (expected[code] - expected[mean])) for code, mean in pairs)


class Recorder(Compositor):
  """The compositor, which also returns its weights and where they lie, and the opacities they are made of."""

  def __call__(self, sampled: Any, rays: Any, opacity: Any, raw_noise: Any, light: Any) -> Rendering:
    rendering = super().__call__(sampled, rays, opacity, raw_noise, light)
    alphas = opacity(sampled.samples.raw, sampled.deltas)
    recorded = {"weights": weights_from_alphas(alphas), "alphas": alphas, "t": sampled.t_points}
    return dataclasses.replace(rendering, extras=rendering.extras | recorded)


def weighted_variance(rendering: Rendering) -> np.ndarray:
  """The unbiased variance of the distance under the weights, as published; it tells where the samples lie."""
  weights, t = (np.asarray(rendering.extras[name]) for name in ("weights", "t"))
  acc, n = weights.sum(-1), weights.shape[-1]
  mean = np.sum(weights * t, -1) / acc
  return np.sum(weights * (t - mean[..., None]) ** 2, -1) / acc * n / (n - 1)


def read(path: Path) -> Golden:
  """A shrunk fixture, or the folder of an original one, whose checkpoint goes through `shapegan_jax.convert`."""
  if path.is_dir():
    method = path.name.partition("_")[0]
    params = read_generator(path / "generator_state.pth", method=method).params
    return Golden(jax.tree.map(jnp.asarray, params), dict(np.load(path / "expected.npz")))
  params, expected = {}, {}
  for key, value in np.load(path).items():
    part, *names = key.split("/")
    if part == "expected":
      expected[names[0]] = value
    else:
      params.setdefault(part, {}).setdefault(names[0], {})[names[1]] = jnp.asarray(value)
  return Golden(params, expected)


def with_mapping(path: Path) -> Golden:
  """A fixture of pi-GAN or an original one, with its mapping network and the latents."""
  golden = read(path)
  if path.is_dir():
    return golden
  mapping = read(SHIPPED / "mapping_hidden32.npz")
  return Golden(golden.params | mapping.params, golden.expected | mapping.expected)


def folder() -> Path | None:
  """Where the originals are, if anywhere."""
  return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def original(name: str) -> Path:
  """The folder of one original fixture; skips the test where there is none."""
  root = folder()
  if root is None:
    pytest.skip(f"needs the original checkpoint files: set {VARIABLE} to their folder (see CONTRIBUTING.md)")
  if not (root / name).is_dir():
    pytest.skip(f"{VARIABLE} has no folder {name}")
  return root / name


def fixtures(method: str) -> list[Any]:
  """Parameters of a test: the shrunk fixture of a method, and every original one of it."""
  root = folder()
  originals = sorted(root.glob(f"{method}_hidden*")) if root else []
  shipped = pytest.param(SHIPPED / f"{method}_hidden32.npz", id="shipped")
  return [shipped] + [pytest.param(path, id=path.name) for path in originals]


def error(actual: Any, expected: np.ndarray) -> float:
  """Largest difference, relative to the largest magnitude."""
  actual = np.asarray(actual)
  assert actual.shape == expected.shape
  assert np.all(np.isfinite(actual))
  return float(np.abs(actual - expected).max() / np.abs(expected).max())


def assert_values(actual: Any, expected: np.ndarray, name: str = "", tolerance: float = VALUES) -> None:
  found = error(actual, expected)
  assert found <= tolerance, f"{name}: {found:.1e} of the largest magnitude"


def flipped(actual: Any, expected: np.ndarray) -> tuple[int, int]:
  """(pixels that differ, pixels) of pictures [b, h, w, ...]."""
  actual = np.asarray(actual)
  assert actual.shape == expected.shape
  assert np.all(np.isfinite(actual))
  far = np.abs(actual - expected) > PICTURES * np.abs(expected).max()
  far = far.reshape(*far.shape[:3], -1).any(-1)
  return int(far.sum()), far.size


def assert_picture(actual: Any, expected: np.ndarray, name: str = "", share: float = FLIPPED) -> None:
  """`expected` [b, h, w], [b, h, w, c], or published rays [b, h w, ...]; `share` of the pixels may differ."""
  actual = np.asarray(actual)
  n, total = flipped(actual, expected.reshape(actual.shape))
  assert n <= share * total, f"{name}: {n} of {total} pixels differ, at most by {np.abs(actual - expected).max():.1e}"


def channels_last(picture: np.ndarray) -> np.ndarray:
  return np.moveaxis(picture, 1, -1)


def image(rgb: Any) -> np.ndarray:
  """[0, 1] as the published images in [-1, 1]."""
  return 2.0 * np.asarray(rgb) - 1.0
