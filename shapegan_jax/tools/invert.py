"""`shapegan invert`: shapes of a generator, poses and lights that reproduce photographs."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapegan_jax.errors import UserError
from shapegan_jax.files import aside
from shapegan_jax.tools.shared.outputs import check_folder
from shapegan_jax.tools.shared.photographs import (
  check_mask,
  find_photographs,
  mask_of,
  photograph_name,
  read_mask,
  read_square,
)

if TYPE_CHECKING:
  import numpy as np

  from shapegan_jax.inversion.optimization import Inversion
  from shapegan_jax.model import Model

_STEPS = 210  # of the default recipe


def invert(
  *,
  model: str,
  input: Path,
  output: Path,
  encoder: Path | None = None,
  mask: Path | None = None,
  steps: int = _STEPS,
  perceptual: float = 0.0,
  batch: int = 1,
) -> None:
  """Find the shape, pose and light that reproduce a photograph, or each photograph of a folder.

  shapegan invert --model=shadegan-heads --input=photo.png --output=found

  Photographs should look like the pictures the model was trained on: one object, upright, with the same framing (their
  centred square is used) and the model's background; for the heads the whole head on plain white. Transparent pixels
  and what --mask leaves out become background. For each photograph NAME the folder gets NAME.safetensors, which render,
  relight and mesh take as --codes; NAME.json, the numbers; and NAME.png, a sheet of the photograph, its reconstruction,
  albedo, shading, normals, depth, mesh, new views and new lights.

  Args:
    model: A shipped model's name, a workdir of shapegan_jax.main, or an exported .safetensors file.
    input: A photograph, or a folder of them (its own folders too). Unreadable files are reported and skipped.
    output: The folder to write to; not that of the photographs.
    encoder: A file of shapegan train-encoder for this model: a better start. Without it several poses are tried.
    mask: White on the object, black elsewhere, as large as the photograph; for a folder, a folder of masks with the
      names of the photographs.
    steps: Steps of the search in total; more give a closer match.
    perceptual: Weight of the perceptual distance (LPIPS) beside the squared error; 0.01 is a reasonable weight.
    batch: Photographs at a time; larger batches are faster on a GPU.
  """
  photographs = find_photographs(input, output)
  check_folder(output)
  check_mask(input, mask)
  for name, value, low, high in (("steps", steps, 10, 100_000), ("batch", batch, 1, 1024)):
    if not low <= value <= high:
      raise UserError(f"--{name}={value}: must be {low} to {high}")
  if not 0 <= perceptual < math.inf:
    raise UserError(f"--perceptual={perceptual}: must be 0 or more, such as 0.01")
  # Heavy imports come last.
  import numpy as np
  from tqdm import tqdm

  from shapegan_jax import parallel
  from shapegan_jax.inversion.encoder import read_encoder
  from shapegan_jax.inversion.optimization import InversionConfig, Inverter
  from shapegan_jax.model import load
  from shapegan_jax.tools.shared.drawing import check_shape, file_names

  parallel.enable_compilation_cache()
  loaded = load(model)
  check_shape(loaded, "shapegan invert")
  found_encoder = None if encoder is None else read_encoder(encoder, loaded)
  names = dict(zip(photographs, file_names([photograph_name(path, input) for path in photographs]), strict=True))
  pictures: dict[Path, Any] = {}
  for path in photographs:
    try:
      pictures[path] = read_photograph(path, loaded, mask=mask_of(path, input, mask))
    except UserError as error:
      if not input.is_dir():
        raise
      print(f"note: left out: {error}", flush=True)
  if not pictures:
    raise UserError(f"--input={input}: none of its {len(photographs)} pictures can be read")
  inverter = Inverter(loaded, InversionConfig(perceptual=perceptual).lasting(steps), encoder=found_encoder)
  print(f"{len(pictures)} to invert, {inverter.config.total_steps} steps each; the first steps take longer", flush=True)
  paths = list(pictures)
  with tqdm(total=len(paths) * inverter.config.total_steps, desc="inverting", leave=False, dynamic_ncols=True) as bar:
    for first in range(0, len(paths), batch):
      some, begun = paths[first : first + batch], time.monotonic()
      stack = np.stack([pictures[path] for path in some])
      found = inverter(stack, progress=lambda done, count=len(some): bar.update(done * count))
      seconds = (time.monotonic() - begun) / len(some)
      for index, path in enumerate(some):
        about = {"photograph": str(path), "model": model, "encoder": encoder and str(encoder), "seconds": seconds}
        said = _write(output, names[path], loaded, pictures[path], found, index, about)
        bar.write(said)
  print(f"use them:  shapegan render --model={model} --codes={output / (names[paths[0]] + '.safetensors')} ...")


def read_photograph(path: Path, model: Model, *, mask: Path | None = None) -> np.ndarray:
  """[r, r, 3] in [0, 1] at the model's resolution: the centred square, on the model's background.

  Raises:
    UserError: the file (or the mask) is missing or not a picture.
  """
  import numpy as np

  background = float(model.config["rendering"]["background"])
  grey = (round(255 * background),) * 3
  picture = read_square(path, model.resolution, grey)
  if mask is None:
    return picture
  inside = read_mask(mask, model.resolution)[..., None]
  return (inside * picture + (1 - inside) * background).astype(np.float32)


def _write(
  output: Path, name: str, model: Model, photograph: np.ndarray, found: Inversion, index: int, about: dict[str, Any]
) -> str:
  """Write codes, numbers and sheet of one photograph, all or none; return a line that describes the result."""
  import json

  import jax
  import numpy as np

  from shapegan_jax.reporting.writer import write_png
  from shapegan_jax.tools.shared.instances import Instances, save_codes
  from shapegan_jax.tools.shared.inversion_sheet import draw_sheet

  codes, cameras, lights, rendering = jax.tree.map(
    lambda x: x[index : index + 1], (found.codes, found.cameras, found.lights, found.rendering)
  )
  subject = Instances(codes, cameras, lights, (name,))
  yaw, pitch = (float(np.degrees(np.asarray(angle)[0])) for angle in (cameras.yaw, cameras.pitch))
  numbers = {**about, "psnr": float(found.psnr[index]), "yaw_deg": yaw, "pitch_deg": pitch}
  if lights is not None:
    numbers["light"] = {
      "ambient": float(lights.ambient[0]),
      "diffuse": float(lights.diffuse[0]),
      "direction": [float(part) for part in lights.direction[0]],
      "code": [float(part) for part in lights.code[0]],
    }
  numbers["losses"] = [float(loss) for loss in found.losses[:, index]]
  sheet = draw_sheet(model, photograph, subject, rendering)
  paths = [output / f"{name}{ending}" for ending in (".safetensors", ".json", ".png")]
  with aside(paths[0]) as codes_file, aside(paths[1]) as numbers_file, aside(paths[2]) as sheet_file:
    save_codes(codes_file, model, subject)
    numbers_file.write_text(json.dumps(numbers, indent=1) + "\n")
    write_png(sheet_file, sheet)
  return f"{paths[2]}: {numbers['psnr']:.1f} dB, yaw {yaw:.0f}, pitch {pitch:.0f} degrees, {about['seconds']:.0f} s"
