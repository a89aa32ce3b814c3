"""`shapegan train-encoder`: a network that initialises the inversion of photographs."""

from __future__ import annotations

from pathlib import Path

from shapegan_jax.errors import UserError
from shapegan_jax.reporting.progress import progress
from shapegan_jax.tools.shared.outputs import check_folder, check_output


def train_encoder(
  *,
  model: str,
  workdir: Path,
  output: Path | None = None,
  samples: int = 8192,
  steps: int = 3000,
  resolution: int = 32,
  batch: int = 64,
  rate: float = 1e-3,
) -> None:
  """Train the encoder of a model: a network that predicts codes, pose and light from a picture.

  shapegan train-encoder --model=shadegan-heads --workdir=runs/encoder --output=runs/encoder.safetensors

  It is trained on pictures of the model, so no photographs are needed. The pictures are rendered once and stored in the
  workdir; the same command resumes an interrupted training. shapegan invert takes the file as --encoder; it is only
  valid for this model.

  Args:
    model: The generator: a workdir, a .safetensors file or the name of a model that comes with the package.
    workdir: The folder for pictures and checkpoints.
    output: The file to write, .safetensors; by default encoder.safetensors in the workdir.
    samples: Number of pictures to render and train on.
    steps: Number of training steps.
    resolution: Of the input pictures, in pixels: a power of two from 8 on, at most that of the model.
    batch: Pictures per step.
    rate: The largest learning rate.
  """
  check_folder(workdir, "--workdir")
  output = check_output(output or workdir / "encoder.safetensors", (".safetensors",))
  for name, value, least in (("samples", samples, 512), ("steps", steps, 1), ("batch", batch, 1)):
    if value < least:
      raise UserError(f"--{name}={value}: must be at least {least}")
  if resolution < 8 or resolution & (resolution - 1):
    raise UserError(f"--resolution={resolution}: must be a power of two from 8 on, such as 32")
  if not 0 < rate < 1:
    raise UserError(f"--rate={rate}: must be between 0 and 1, such as 1e-3")

  from shapegan_jax import parallel
  from shapegan_jax.fitting import FitConfig
  from shapegan_jax.inversion import encoder
  from shapegan_jax.model import load
  from shapegan_jax.tools.shared.drawing import check_shape

  parallel.enable_compilation_cache()
  generator = load(model)
  check_shape(generator, "shapegan train-encoder")
  if resolution > generator.resolution:
    raise UserError(f"--resolution={resolution}: the model's pictures have {generator.resolution} pixels; use fewer")
  trained = encoder.train_encoder(
    generator,
    workdir,
    encoder.EncoderConfig(samples=samples, resolution=resolution, batch=batch),
    FitConfig(steps=steps, rate=rate),
    progress=progress,
  )
  trained.save(output)
  found = trained.numbers
  light = f", light {found['light_variance_explained']:.0%}" if "light_variance_explained" in found else ""
  print(f"{output}: pose within {found['pose_error_deg']:.1f} degrees (median over held-out pictures)")
  print(f"explained share of the variance: codes {found['code_variance_explained']:.0%}{light}")
  print(f"use it:  shapegan invert --model={model} --encoder={output} --input=photo.png --output=found")
