"""`shapegan convert`: published checkpoints as files of this package. Neither PyTorch nor TensorFlow is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from shapegan_jax.errors import UserError


def convert(
  *,
  method: Literal["pigan", "gof", "shadegan", "graf", "stylegan2"],
  input: Path,
  output: Path,
  ema: Path | None = None,
  dataset: Literal["celeba", "bfm", "cats", "carla", "celebahq", "cub"] | None = None,
) -> None:
  """Turn a published checkpoint into a file that shapegan_jax.load reads.

  shapegan convert --method=pigan --input=generator.pth --ema=ema.pth --output=celeba.safetensors

  State dicts, whole pickled modules and averages are read, in both of PyTorch's formats and without PyTorch; of
  StyleGAN2 also NVIDIA's pickles, those of TensorFlow too, with the discriminator. Nothing in a file is ever executed:
  anything but data is refused. The model renders as its authors' code does; a file does not tell pi-GAN from GOF, so
  --method must be right.

  Args:
    method: The method the checkpoint is of.
    input: The checkpoint: generator.pth (or ema.pth alone), GRAF's .pt, StyleGAN2's .pt or .pkl.
    output: The file to write; it ends in .safetensors and is replaced if it exists.
    ema: The averaged weights beside a generator (ema.pth): they replace the generator's and are what the authors
      evaluate.
    dataset: What it was trained on, which decides cameras, volume and samples. By default celeba; bfm for gof; carla
      for graf, and for pi-GAN modules without a box warp.
  """
  if output.suffix != ".safetensors":
    raise UserError(f"--output={output}: must end in .safetensors; name a file such as {output.stem}.safetensors")
  if os.path.isdir(output):
    raise UserError(f"--output={output}: is a folder; name a file in it, such as {output / 'model.safetensors'}")
  params, config, step, notes = _read(method, input, ema, dataset)
  # Heavy imports come last: a bad file is refused at once.
  from shapegan_jax.checkpoints import export_safetensors
  from shapegan_jax.methods.catalog import build
  from shapegan_jax.state import parameter_count

  build(config)
  export_safetensors(output, params, {"config": config, "step": step})
  trained = f"{step:,} updates" if step else "number of updates unknown"
  for note in notes:
    print(f"note: {note}")
  print(f"{output}: {method}, {parameter_count(params):,} parameters, {_sizes(config)}, {trained}")
  print(f'use it:  model = shapegan_jax.load("{output}"); picture = model.render(truncation=0.7)')


def _read(
  method: str, input: Path, ema: Path | None, dataset: str | None
) -> tuple[dict[str, Any], dict[str, Any], int, tuple[str, ...]]:
  """(parameters, config, step, notes)."""
  from shapegan_jax.convert import graf, pigan_family, published, stylegan2

  if method == "stylegan2":
    if ema is not None or dataset is not None:
      raise UserError("--ema, --dataset: a StyleGAN2 file contains its average and needs no data set; leave them out")
    found = stylegan2.read_gan(input)
    return found.params, found.config, 0, found.notes
  if method == "graf":
    if ema is not None:
      raise UserError("--ema: a GRAF checkpoint contains its average; leave it out")
    if dataset == "bfm":
      raise UserError(
        "--dataset=bfm: no graf model of it was published; choose one of carla, celeba, celebahq, cats, cub"
      )
    found = graf.read_generator(input)
    return found.params, graf.nerf_config(found, dataset=dataset or "carla"), found.step, found.notes
  if dataset in ("celebahq", "cub"):
    raise UserError(f"--dataset={dataset}: only GRAF models of it were published; choose another")
  found = pigan_family.read_generator(input, method=method, ema=ema)
  return found.params, published.siren_config(found, method=method, dataset=dataset), found.step, found.notes


def _sizes(config: dict[str, Any]) -> str:
  if config["method"] == "stylegan2":
    (size,), mapping = config["stages"]["resolution"], config["mapping"]
    return f"{size}x{size} pixels, {mapping['layers']} mapping layers of width {mapping['size']}"
  field = config["field"]
  return f"{field['depth']} layers of width {field['width']}"
