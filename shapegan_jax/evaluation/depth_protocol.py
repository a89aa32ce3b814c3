"""The papers' test of a generator's shapes: a network that learns depth from its pictures, tried on real ones.

ShadeGAN (Pan et al. 2021, section 4) and GOF (Xu et al. 2021) render pictures with their depth, fit a convolutional
network (Unsup3D's) to them, and compare its depth of real test pictures with ground truth. Neither released the code
of this training. What the papers leave open is chosen here, and is the same for every generator and for the upper
bound, which is trained on real pictures with their true depth:

- 1500 pairs (ShadeGAN: about 50 000), each with its own latent, pose and light sampled from the priors, without
  truncation, stored as 8-bit pictures; each is mirrored with probability 1/2 whenever it enters a batch.
- the network is `networks.depth_net.MapNet` of width 16, tanh to [near, far], without subtracting the mean.
- the loss is the mean of |depth - true depth| over the mask, plus twice the mean absolute difference of that error
  between neighbouring pixels (in both directions), without which so short a training leaves rough normals. The mask of
  a generated picture is acc > 1/2, that of a real one comes with the data. Pixels outside are background: they are part
  of the input but not of the loss, so the network's depth there is undefined and is never measured.
- Adam with learning rate 2e-3 (warm-up, then a cosine) for 1500 batches of 32.

Width, steps, rate and the second term were chosen by the test error of the upper bound, before any generator was tried.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from shapegan_jax.batches import padded_batches
from shapegan_jax.data.sources import Source
from shapegan_jax.errors import UserError
from shapegan_jax.files import aside
from shapegan_jax.fitting import FitConfig, fit
from shapegan_jax.methods.base import Method, sample_scene
from shapegan_jax.networks.depth_net import MapNet, depth_from_raw
from shapegan_jax.rng import root_key, stream
from shapegan_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class DepthProtocol:
  """The free choices; see the module's docstring. `near` and `far` bound the depths that the network can predict."""

  pairs: int = 1500
  resolution: int = 64
  truncation: float = 1.0
  seed: int = 0
  width: int = 16
  bottleneck: int = 256
  near: float = 0.88
  far: float = 1.12
  batch_size: int = 32
  slope_weight: float = 2.0
  fit: FitConfig = dataclasses.field(default_factory=lambda: FitConfig(steps=1500, rate=2e-3, warmup=50))

  @property
  def network(self) -> MapNet:
    """The depth network."""
    return MapNet(self.resolution, self.width, self.bottleneck)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """n pictures, uint8 [n, h, w, 3], with depth, float32 [n, h, w] along the optical axis, where mask, bool [n, h, w].

  Outside the mask the depth is any number above 0.
  """

  images: np.ndarray
  depth: np.ndarray
  mask: np.ndarray

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: slice) -> Pairs:
    return Pairs(self.images[index], self.depth[index], self.mask[index])

  @classmethod
  def of(cls, source: Source, count: int | None = None, *, far: float) -> Pairs:
    """The first examples of a data set (None: all); depth outside its masks becomes `far`.

    Raises:
      UserError: the set has no ground truth.
    """
    examples = [source[i] for i in range(len(source) if count is None else min(count, len(source)))]
    if not examples or "depth" not in examples[0] or "mask" not in examples[0]:
      raise UserError("depth: this data set has no true depth to compare with; heads and synface have")
    image, depth, mask = (np.stack([np.asarray(e[name]) for e in examples]) for name in ("image", "depth", "mask"))
    return cls(image, np.where(mask, depth, far).astype(np.float32), mask.astype(bool))


def generated_pairs(
  method: Method, params: PyTree, protocol: DepthProtocol, folder: Path, *, chunk: int = 50, label: str = "pairs"
) -> Pairs:
  """`protocol.pairs` pictures of a generator with their depth, stored in `folder` in files of `chunk` (resumable).

  Pair i depends on the parameters and on (seed, i // chunk) alone, so a larger set starts with the smaller one.

  Raises:
    UserError: the folder holds pairs of something else, or cannot be written.
  """
  identity = json.dumps(
    {"params": checksum(params), "chunk": chunk}
    | {name: getattr(protocol, name) for name in ("resolution", "truncation", "seed")}
  )
  draw = jax.jit(lambda params, key: _draw(method, params, key, chunk, protocol))
  parts = []
  for index in tqdm(range(-(-protocol.pairs // chunk)), desc=label, delay=1, leave=False):
    path = folder / f"pairs_{index:04d}.npz"
    part = _read(path, identity)
    if part is None:
      image, depth, mask = jax.device_get(draw(params, stream(root_key(protocol.seed), "depth_pairs", index)))
      part = Pairs(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8), depth.astype(np.float32), mask)
      _write(path, part, identity)
    parts.append(part)
  whole = Pairs(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Pairs)))
  return whole[: protocol.pairs]


def _draw(method: Method, params: PyTree, key: Array, n: int, protocol: DepthProtocol) -> tuple[Array, Array, Array]:
  scene = sample_scene(method, key, n)
  rendering = method.render(params, scene, resolution=protocol.resolution, truncation=protocol.truncation)
  return rendering.rgb, jnp.clip(rendering.depth, protocol.near, protocol.far), rendering.acc > 0.5


def train_depth_net(
  pairs: Pairs, protocol: DepthProtocol, workdir: Path | None = None, *, label: str = "depth network"
) -> tuple[PyTree, float]:
  """(variables of `protocol.network` fitted to the pairs, mean loss of its last steps in world units).

  A fit found in `workdir` is resumed, or refused if it was fitted to other pairs.
  """
  network = protocol.network

  def loss(params: PyTree, batch: tuple[Array, Array, Array]) -> Array:
    image, depth, mask = batch
    error = _estimate(network, params, image, protocol) - depth
    return _mean(jnp.abs(error), mask) + protocol.slope_weight * sum(
      _mean(jnp.abs(jnp.diff(error, axis=axis)), _neighbours(mask, axis)) for axis in (1, 2)
    )

  def batch_of(step: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng((protocol.seed, step))
    chosen, mirrored = rng.integers(0, len(pairs), protocol.batch_size), rng.random(protocol.batch_size) < 0.5

    def take(values: np.ndarray) -> np.ndarray:
      taken = values[chosen]
      return np.where(mirrored.reshape(-1, *(1,) * (taken.ndim - 1)), taken[:, :, ::-1], taken)

    image, depth, mask = take(pairs.images), take(pairs.depth), take(pairs.mask)
    return _as_input(image), jnp.asarray(depth), jnp.asarray(mask, jnp.float32)

  settings = {name: value for name, value in dataclasses.asdict(protocol).items() if name != "fit"}
  identity = {**settings, "pairs": len(pairs), "fitted_to": checksum([pairs.images, pairs.depth, pairs.mask])}
  params = network.init_params(stream(root_key(protocol.seed), "depth_net"))
  return fit(loss, params, batch_of, protocol.fit, workdir=workdir, identity=identity, label=label)


def estimate_depth(params: PyTree, images: np.ndarray, protocol: DepthProtocol, *, batch: int = 64) -> np.ndarray:
  """Depth [n, h, w] of uint8 pictures [n, h, w, 3] by the trained network."""
  network = protocol.network
  estimate = jax.jit(lambda params, image: _estimate(network, params, image, protocol))
  estimated = []
  for part, fresh in padded_batches(images, min(batch, len(images))):
    estimated.append(np.asarray(estimate(params, _as_input(part)))[:fresh])
  return np.concatenate(estimated)


def average_depth(pairs: Pairs) -> np.ndarray:
  """[h, w]: the mean of each pixel over the pictures whose mask contains it; where there is none, the mean of all."""
  count = pairs.mask.sum(0)
  total = np.where(pairs.mask, pairs.depth, 0.0).sum(0, dtype=np.float64)
  return np.where(count > 0, total / np.maximum(count, 1), total.sum() / max(count.sum(), 1)).astype(np.float32)


def checksum(tree: PyTree) -> int:
  """A number that distinguishes trees of arrays."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    value = zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes(), value)
  return value


def _as_input(images: np.ndarray) -> Array:
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def _estimate(network: MapNet, params: PyTree, image: Array, protocol: DepthProtocol) -> Array:
  return depth_from_raw(network.apply(params, image), near=protocol.near, far=protocol.far)


def _mean(values: Array, mask: Array) -> Array:
  return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def _neighbours(mask: Array, axis: int) -> Array:
  """1 where a pixel and the next along `axis` both belong to the mask."""
  n = mask.shape[axis]
  return jax.lax.slice_in_dim(mask, 0, n - 1, axis=axis) * jax.lax.slice_in_dim(mask, 1, n, axis=axis)


def _read(path: Path, identity: str) -> Pairs | None:
  if not path.exists():
    return None
  try:
    with np.load(path) as file:
      kept: Mapping[str, np.ndarray] = {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(f"{path}: cannot be read ({error}); remove it and it is rendered again") from error
  if str(kept.get("identity")) != identity:
    raise UserError(f"{path}: holds pairs of another model or of other settings; choose another workdir or remove it")
  return Pairs(kept["images"], kept["depth"], kept["mask"])


def _write(path: Path, pairs: Pairs, identity: str) -> None:
  with aside(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, images=pairs.images, depth=pairs.depth, mask=pairs.mask, identity=np.array(identity))
