"""An encoder that initialises the inversion of photographs. It is trained on pictures of its own generator.

Pictures of latents, poses and lights from the priors are rendered once and stored. The network of
`networks.image_encoders` learns to predict, from a slightly blurred and noisy picture, the codes, pose and light it was
rendered with, all standardised by the statistics of the generator. The loss is the sum of the three mean squared
errors. ShadeGAN's published encoder also compares the picture rendered from its prediction, leaves the light out of the
loss, and is initialised from the discriminator.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from shapegan_jax.batches import padded_batches
from shapegan_jax.checkpoints import claim_workdir, export_safetensors, import_safetensors
from shapegan_jax.data.images import resample
from shapegan_jax.errors import UserError
from shapegan_jax.files import aside
from shapegan_jax.fitting import FitConfig, fit
from shapegan_jax.inversion.latent_space import CodeSpace, fingerprint, measure
from shapegan_jax.metrics.pose import pose_error_deg
from shapegan_jax.model import Model
from shapegan_jax.networks.image_encoders import ImageEncoder
from shapegan_jax.reporting.progress import ProgressBar
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, Cameras, Codes, Key, Lights, PyTree, Scene

_KIND = "shapegan encoder 1"
_CHUNK = 256  # samples per file of the pool
_RENDERED = 16  # pictures rendered at a time


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """`samples` pictures of `resolution` pixels are rendered; the last chunk of the pool is held out for testing.

  Each picture of a batch is blurred by a random amount and gets noise of a random standard deviation up to `noise`.
  """

  samples: int = 8192
  resolution: int = 32
  batch: int = 64
  width: int = 48
  max_width: int = 192
  noise: float = 0.06
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder and the statistics of its outputs. `model` is the fingerprint of the generator it belongs to."""

  network: ImageEncoder
  params: PyTree
  scales: Mapping[str, Array]
  model: str
  numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)  # its accuracy on the test chunk of the pool

  def __call__(self, pictures: Float[np.ndarray, "n r r 3"], model: Model) -> tuple[Codes, Cameras, Lights | None]:
    """Codes, cameras and lights of pictures in [0, 1] of any size, for the `model` it belongs to."""
    images = 2 * jnp.asarray(resample(pictures, self.network.resolution)) - 1
    return self._read(self.network.apply({"params": self.params}, images), model)

  def _read(self, outputs: tuple[Array, Array, Array], model: Model) -> tuple[Codes, Cameras, Lights | None]:
    scales, (codes, pose, light) = self.scales, outputs
    codes = scales["code_mean"][None] + scales["code_deviation"][None] * codes
    sizes = [values.shape[-1] for values in _code_shapes(model)]
    pose = scales["pose_mean"][None] + scales["pose_deviation"][None] * pose
    lights = Lights(scales["light_mean"][None] + scales["light_deviation"][None] * light) if light.size else None
    split = jnp.split(codes, np.cumsum(sizes)[:-1], axis=-1)
    return Codes(tuple(split)), model.cameras_at(pose[:, 0], pose[:, 1]), lights

  def save(self, path: str | Path) -> None:
    """Write the encoder to one `.safetensors` file."""
    network = {name: getattr(self.network, name) for name in _NETWORK}
    about = {"kind": _KIND, "model": self.model, "network": network, "numbers": dict(self.numbers)}
    export_safetensors(path, {"params": self.params, "scales": self.scales}, about)


_NETWORK = ("code_size", "light_size", "resolution", "width", "max_width")


def read_encoder(path: str | Path, model: Model) -> Encoder:
  """The encoder in a file.

  Raises:
    UserError: no such file, another kind of file, or the encoder of another generator than `model`'s.
  """
  path = Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; shapegan train-encoder writes one")
  arrays, about = import_safetensors(path)
  if about.get("kind") != _KIND:
    raise UserError(f"{path}: is not an encoder; shapegan train-encoder writes one (a model goes to --model)")
  if about["model"] != fingerprint(model.params):
    raise UserError(f"{path}: is the encoder of another model; train one for this model with shapegan train-encoder")
  arrays = jax.tree.map(jnp.asarray, arrays)
  return Encoder(ImageEncoder(**about["network"]), arrays["params"], arrays["scales"], about["model"], about["numbers"])


def train_encoder(
  model: Model,
  workdir: Path,
  config: EncoderConfig,
  fit_config: FitConfig,
  *,
  progress: ProgressBar = lambda items, label: items,
) -> Encoder:
  """The encoder of a model (`shapegan_jax.load`). Pictures and checkpoints are in `workdir`, from which it resumes.

  Args:
    progress: wraps long loops, such as `reporting.progress.progress`.

  Raises:
    UserError: the workdir belongs to another encoder, or training failed.
  """
  if config.samples < 2 * _CHUNK:
    raise UserError(f"samples={config.samples}: too few to train on; give at least {2 * _CHUNK}")
  name = fingerprint(model.params)
  identity = {"kind": _KIND, "model": name, **dataclasses.asdict(config)}
  # Before hours of rendering, not after.
  claim_workdir(workdir, {**dataclasses.asdict(fit_config), **identity})
  pool = [
    _chunk(model, workdir / "pool" / f"{name}-{config.seed}-{config.resolution}-{i:05d}.npz", config, i)
    for i in progress(range(config.samples // _CHUNK), "drawing")
  ]
  pool = {key: np.concatenate([chunk[key] for chunk in pool]) for key in pool[0]}
  space = measure(model.method, model.params)
  scales = _scales(space)
  targets = _targets(model, pool, scales)
  network = ImageEncoder(
    code_size=targets["codes"].shape[-1],
    light_size=targets["light"].shape[-1],
    resolution=config.resolution,
    width=config.width,
    max_width=config.max_width,
  )
  key, n = root_key(config.seed), len(pool["images"]) - _CHUNK

  def batch_of(step: int) -> dict[str, Array]:
    rows = np.random.default_rng((config.seed, step)).integers(n, size=config.batch)
    batch = {name: jnp.asarray(values[rows]) for name, values in targets.items()}
    return {**batch, "images": jnp.asarray(pool["images"][rows]), "key": stream(key, "augment", step)}

  def loss(params: PyTree, batch: dict[str, Array]) -> Array:
    images = _degraded(batch["images"], batch["key"], config.noise)
    codes, pose, light = network.apply({"params": params}, images)
    total = jnp.mean((codes - batch["codes"]) ** 2) + jnp.mean((pose - batch["pose"]) ** 2)
    return total + (jnp.mean((light - batch["light"]) ** 2) if light.size else 0.0)

  params = network.init_params(stream(key, "network"))["params"]
  params, _ = fit(loss, params, batch_of, fit_config, workdir=workdir, identity=identity, label="encoder")
  encoder = Encoder(network, params, scales, name)
  return dataclasses.replace(encoder, numbers=_test(encoder, pool, targets))


def _chunk(model: Model, path: Path, config: EncoderConfig, index: int) -> dict[str, np.ndarray]:
  """Chunk `index` of the pool, read from `path` or rendered and written there."""
  if path.exists():
    try:
      with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
      pass  # damaged: rendered again
  key = stream(root_key(config.seed), "encoder pool", index)
  # Not `sample_scene`: each of the three has a stream of its stream, which determines the files of a pool.
  latents = model.sample_latents(_CHUNK, stream(key, "latents"))
  cameras = model.sample_cameras(_CHUNK, stream(key, "cameras"))
  lights = model.sample_lights(_CHUNK, stream(key, "lights"))
  images = []
  for some, _ in padded_batches(Scene(latents, cameras, lights), _RENDERED):
    rgb = model.render(some.latents, some.cameras, some.lights, resolution=config.resolution).rgb
    images.append(np.round(255 * np.clip(np.asarray(rgb), 0, 1)).astype(np.uint8))
  chunk = {
    "images": np.concatenate(images),
    "latents": np.asarray(latents),
    "pose": np.stack([cameras.yaw, cameras.pitch], -1),
    "light": np.zeros((_CHUNK, 0), np.float32) if lights is None else np.asarray(lights.code),
  }
  with aside(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **chunk)
  return chunk


def _scales(space: CodeSpace) -> dict[str, Array]:
  """Mean and standard deviation of every output of the network."""

  def usable(deviation: Array) -> Array:
    return jnp.where(deviation > 1e-6, deviation, 1.0)  # constant outputs are not scaled

  scales = {
    "code_mean": jnp.concatenate(space.code_means),
    "code_deviation": usable(jnp.concatenate(space.code_deviations)),
    "pose_mean": space.pose_mean,
    "pose_deviation": usable(space.pose_deviation),
  }
  if space.light_mean is not None:
    scales["light_mean"] = space.light_mean
    scales["light_deviation"] = usable(jnp.linalg.norm(space.light_root, axis=-1))
  return scales


def _targets(model: Model, pool: dict[str, np.ndarray], scales: dict[str, Array]) -> dict[str, np.ndarray]:
  """The standardised targets of the network for the pool."""
  codes = np.concatenate([np.asarray(values) for values in model.codes(jnp.asarray(pool["latents"])).values], -1)
  given = {"code": codes, "pose": pool["pose"], "light": pool["light"]}
  standard = {
    name: (values - np.asarray(scales[f"{name}_mean"])) / np.asarray(scales[f"{name}_deviation"])
    for name, values in given.items()
    if values.shape[-1]
  }
  return {"codes": standard["code"], "pose": standard["pose"], "light": standard.get("light", pool["light"])}


def _degraded(images: UInt8[Array, "b r r 3"], key: Key, noise: float) -> Float[Array, "b r r 3"]:
  """The pictures in [-1, 1], slightly blurred and noisy, since photographs do not come from the generator."""
  x = images.astype(jnp.float32) / 127.5 - 1
  share, level, grain = jax.random.split(key, 3)
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
  blurred = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
  each = (x.shape[0], 1, 1, 1)
  x = x + jax.random.uniform(share, each) * (blurred - x)
  return x + noise * jax.random.uniform(level, each) * jax.random.normal(grain, x.shape)


def _test(encoder: Encoder, pool: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict[str, float]:
  """The accuracy of the encoder on pictures that it was not trained on."""
  images = pool["images"][-_CHUNK:].astype(np.float32) / 127.5 - 1
  outputs = [
    jax.device_get(encoder.network.apply({"params": encoder.params}, jnp.asarray(some)))
    for some, _ in padded_batches(images, _RENDERED)
  ]
  codes, pose, light = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
  angles = np.asarray(encoder.scales["pose_mean"]) + np.asarray(encoder.scales["pose_deviation"]) * pose
  error = pose_error_deg(*angles.T, *pool["pose"][-_CHUNK:].T)
  wanted = {name: values[-_CHUNK:] for name, values in targets.items()}
  numbers = {
    "pose_error_deg": float(np.median(error)),
    "code_variance_explained": float(1 - np.mean((codes - wanted["codes"]) ** 2)),
  }
  if light.size:
    numbers["light_variance_explained"] = float(1 - np.mean((light - wanted["light"]) ** 2))
  return numbers


def _code_shapes(model: Model) -> tuple[jax.ShapeDtypeStruct, ...]:
  return jax.eval_shape(model.codes, jax.eval_shape(lambda: model.sample_latents(1))).values
