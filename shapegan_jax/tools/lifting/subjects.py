"""Whom `shapegan lift` lifts: pictures that the generator draws from seeds, or photographs projected into it."""

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
from shapegan_jax.methods.gan2shape.engine_settings import Subjects
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.rng import root_key

WHITE = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Wanted:
  """Who shall be lifted, before anything was computed: names, and of each a seed or a photograph.

  `images` [n, r, r, 3] in [-1, 1] have the generator's resolution; `masks` [n, r, r] are those that were given.
  """

  names: tuple[str, ...]
  sources: tuple[str, ...]  # in words
  seeds: tuple[int, ...] = ()
  images: np.ndarray | None = None
  masks: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, part: slice) -> Wanted:
    """Some of them."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return Wanted(**{name: None if value is None else value[part] for name, value in fields.items()})


@dataclasses.dataclass(frozen=True)
class Placed:
  """Subjects with their latents, and how near their pictures come (dB; None: they are the generator's own)."""

  subjects: Subjects
  psnr: np.ndarray | None  # [n]


def place(
  wanted: Wanted,
  method: Gan2Shape,
  gan: Any,
  project: Callable[..., Projection],
  *,
  truncation: float,
  progress: Callable[[int], object],
) -> Placed:
  """The subjects of a run. Without a mask of their own they get what the config says of masks.

  Args:
    project: a `Projector`; asked for photographs only.
    progress: told of its steps.
    truncation: of seeds.
    wanted, method, gan: of the run.
  """
  size, psnr = method.model.resolution, None
  if wanted.images is None:
    drawn = [
      jax.jit(lambda gan, key: gan.sample(key, 1, truncation=truncation))(gan, root_key(s)) for s in wanted.seeds
    ]
    latent = jnp.concatenate(drawn)
    image = jax.jit(lambda gan, w: jax.lax.map(lambda one: method.rendition(gan, one[None])[0], w))(gan, latent)
  else:
    found = project(wanted.images, wanted.masks, progress=progress)
    latent, psnr = jnp.asarray(found.latent), found.psnr
    image = method.gan.resized(jnp.asarray(wanted.images), size)
  if wanted.masks is None:
    mask = method.masks.of(image)
  else:
    mask = method.gan.resized(jnp.repeat(jnp.asarray(wanted.masks)[..., None], 3, -1), size)[..., 0]
  if empty := [name for name, part in zip(wanted.names, np.asarray(mask), strict=True) if part.max() < 0.5]:
    raise UserError(f"{empty[0]}: its mask is empty, so there is nothing to lift; give another with --mask")
  return Placed(Subjects(image, latent, mask), psnr)


def keep(path: Path, placed: Placed, identity: Mapping[str, Any]) -> None:
  """Write subjects to a file, so that a run that is gone on with need not look for them again."""
  arrays = {name: np.asarray(getattr(placed.subjects, name)) for name in ("image", "latent", "mask")}
  if placed.psnr is not None:
    arrays["psnr"] = placed.psnr
  with aside(path) as temporary, temporary.open("wb") as file:
    np.savez_compressed(file, **arrays, identity=np.array(json.dumps(identity, sort_keys=True)))


def kept(path: Path, identity: Mapping[str, Any]) -> Placed | None:
  """What `keep` wrote; None where there is nothing, or that of others."""
  if not path.exists():
    return None
  try:
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    return None
  if str(arrays.get("identity")) != json.dumps(identity, sort_keys=True):
    return None
  return Placed(Subjects(*(jnp.asarray(arrays[name]) for name in ("image", "latent", "mask"))), arrays.get("psnr"))


def wanted_seeds(seeds: Sequence[int]) -> Wanted:
  """From `--seeds`.

  Raises:
    UserError: none, or out of range.
  """
  if not seeds:
    raise UserError("--seeds: none given; name at least one, such as --seeds 0 1")
  if min(seeds) < 0 or max(seeds) >= 2**32:
    raise UserError(f"--seeds: {min(seeds)} to {max(seeds)} given; seeds are whole numbers from 0 to 2^32 - 1")
  names = tuple(f"seed-{seed}" for seed in seeds)
  return Wanted(names, tuple(f"seed {seed}" for seed in seeds), seeds=tuple(seeds))


def wanted_photographs(input: Path, output: Path, mask: Path | None, size: int) -> Wanted:
  """From `--input` and `--mask`, at the generator's resolution. What cannot be read of a folder is named and left out.

  Raises:
    UserError: nothing is left.
  """
  from shapegan_jax.tools.shared.drawing import file_names
  from shapegan_jax.tools.shared.photographs import find_photographs, mask_of, photograph_name, read_mask, read_square

  images, masks, read = [], [], []
  paths = find_photographs(input, output)
  for path in paths:
    try:
      image = read_square(path, size, WHITE)
      own = mask_of(path, input, mask)
      inside = None if own is None else read_mask(own, size)
    except UserError as error:
      if not input.is_dir():
        raise
      print(f"note: left out: {error}", flush=True)
      continue
    read.append(path)
    images.append(2 * image - 1)
    masks.append(inside)
  if not read:
    raise UserError(f"--input={input}: none of its {len(paths)} pictures can be read")
  names = tuple(file_names([photograph_name(path, input) for path in read]))
  return Wanted(names, tuple(map(str, read)), images=np.stack(images), masks=None if mask is None else np.stack(masks))
