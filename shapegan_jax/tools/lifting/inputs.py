"""The input images of `shapegan lift`: samples of the generator, or photographs projected into it."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shapegan_jax.errors import UserError
from shapegan_jax.files import aside
from shapegan_jax.inversion.projection import Projection
from shapegan_jax.methods.gan2shape.engine_settings import InstanceImages
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.rng import root_key

WHITE = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The requested inputs, before any computation: names, and for each a seed or a photograph.

  `images` [n, r, r, 3] in [-1, 1] have the generator's resolution; `masks` [n, r, r] are the given ones, if any.
  """

  names: tuple[str, ...]
  sources: tuple[str, ...]  # for people: "seed 0", or a path
  seeds: tuple[int, ...] = ()
  images: np.ndarray | None = None
  masks: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, part: slice) -> Inputs:
    """A part of the inputs."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return Inputs(**{name: None if value is None else value[part] for name, value in fields.items()})


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Inputs with their latents and masks, and the PSNR of their projections in dB (None for seeds)."""

  instances: InstanceImages
  psnr: np.ndarray | None  # [n]


def prepare(
  inputs: Inputs,
  method: Gan2Shape,
  gan: FrozenGan,
  project: Callable[..., Projection],
  *,
  truncation: float,
  progress: Callable[[int], object],
) -> Prepared:
  """The images, latents and masks of inputs. Inputs without a given mask are masked as the config says.

  Args:
    inputs, method, gan: of the run.
    project: a `Projector`, called for photographs only.
    truncation: of the latents of seeds.
    progress: receives the projection's steps.
  """
  size, psnr = method.model.resolution, None
  if inputs.images is None:
    latents = [
      jax.jit(lambda gan, key: gan.sample(key, 1, truncation=truncation))(gan, root_key(s)) for s in inputs.seeds
    ]
    latent = jnp.concatenate(latents)
    image = jax.jit(lambda gan, w: jax.lax.map(lambda one: method.generate(gan, one[None])[0], w))(gan, latent)
  else:
    found = project(inputs.images, inputs.masks, progress=progress)
    latent, psnr = jnp.asarray(found.latent), found.psnr
    image = method.gan.resized(jnp.asarray(inputs.images), size)
  if inputs.masks is None:
    mask = method.masks.of(image)
  else:
    mask = method.gan.resized(jnp.repeat(jnp.asarray(inputs.masks)[..., None], 3, -1), size)[..., 0]
  if empty := [name for name, part in zip(inputs.names, np.asarray(mask), strict=True) if part.max() < 0.5]:
    raise UserError(f"{empty[0]}: its mask is empty, so there is nothing to lift; give another with --mask")
  return Prepared(InstanceImages(image, latent, mask), psnr)


def save_prepared(path: Path, prepared: Prepared, identity: Mapping[str, Any]) -> None:
  """Write prepared inputs to a file, so that a resumed run need not project them again."""
  arrays = {name: np.asarray(getattr(prepared.instances, name)) for name in ("image", "latent", "mask")}
  if prepared.psnr is not None:
    arrays["psnr"] = prepared.psnr
  with aside(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **arrays, identity=np.array(json.dumps(identity, sort_keys=True)))


def load_prepared(path: Path, identity: Mapping[str, Any]) -> Prepared | None:
  """What `save_prepared` wrote; None if there is no such file, or it has another identity."""
  if not path.exists():
    return None
  try:
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    return None
  if str(arrays.get("identity")) != json.dumps(identity, sort_keys=True):
    return None
  return Prepared(
    InstanceImages(*(jnp.asarray(arrays[name]) for name in ("image", "latent", "mask"))), arrays.get("psnr")
  )


def inputs_from_seeds(seeds: Sequence[int]) -> Inputs:
  """The inputs of `--seeds`.

  Raises:
    UserError: none, or out of range.
  """
  if not seeds:
    raise UserError("--seeds: none given; name at least one, such as --seeds 0 1")
  if min(seeds) < 0 or max(seeds) >= 2**32:
    raise UserError(f"--seeds: {min(seeds)} to {max(seeds)} given; seeds are whole numbers from 0 to 2^32 - 1")
  names = tuple(f"seed-{seed}" for seed in seeds)
  return Inputs(names, tuple(f"seed {seed}" for seed in seeds), seeds=tuple(seeds))


def inputs_from_photographs(input: Path, output: Path, mask: Path | None, size: int) -> Inputs:
  """The inputs of `--input` and `--mask`, at the generator's resolution. In a folder unreadable files are skipped.

  Raises:
    UserError: no photograph can be read.
  """
  from shapegan_jax.tools.shared.drawing import file_names
  from shapegan_jax.tools.shared.photographs import find_photographs, mask_of, photograph_name, read_mask, read_square

  images, masks, read = [], [], []
  paths = find_photographs(input, output)
  for path in paths:
    try:
      image = read_square(path, size, WHITE)
      mask_path = mask_of(path, input, mask)
      inside = None if mask_path is None else read_mask(mask_path, size)
    except UserError as error:
      if not input.is_dir():
        raise
      print(f"note: skipped: {error}", flush=True)
      continue
    read.append(path)
    images.append(2 * image - 1)
    masks.append(inside)
  if not read:
    raise UserError(f"--input={input}: none of its {len(paths)} images can be read")
  names = tuple(file_names([photograph_name(path, input) for path in read]))
  return Inputs(names, tuple(map(str, read)), images=np.stack(images), masks=None if mask is None else np.stack(masks))
