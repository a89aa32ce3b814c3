"""Accuracy of inversion: poses, lights and pictures of held-out latents, recovered from renderings.

  python -m benchmarks.inversion --model=shadegan-heads
  python -m benchmarks.inversion --model=runs/heads --encoder=runs/encoder.safetensors --picture=inversion.png

Latents, poses and lights are sampled from the priors with a fixed key; each is rendered, inverted from the picture
alone and compared. Prints one row of a Markdown table (the first time with its head) and writes a JSON file.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

from absl import app, flags

_MODEL = flags.DEFINE_string("model", "shadegan-heads", "Generator, as for shapegan_jax.load.")
_ENCODER = flags.DEFINE_string("encoder", None, "File of shapegan train-encoder; none: search from several poses.")
_COUNT = flags.DEFINE_integer("count", 20, "How many latents.")
_BATCH = flags.DEFINE_integer("batch", 2, "How many at a time.")
_OUTPUT = flags.DEFINE_string("output", "inversion.json", "JSON file to write.")
_PICTURE = flags.DEFINE_string("picture", None, "PNG to write: pictures above their inversions.")

_SEED = 12345  # unused by training and previews


def main(argv: list[str]) -> None:
  del argv
  import jax
  import numpy as np
  from tqdm import tqdm

  from shapegan_jax import load, parallel
  from shapegan_jax.inversion.encoder import read_encoder
  from shapegan_jax.inversion.optimization import Inverter
  from shapegan_jax.metrics.pose import pose_error_deg
  from shapegan_jax.reporting.previews import labelled_grid, pictures
  from shapegan_jax.reporting.writer import write_png
  from shapegan_jax.rng import root_key

  parallel.enable_compilation_cache()
  model, key = load(_MODEL.value), root_key(_SEED)
  encoder = read_encoder(_ENCODER.value, model) if _ENCODER.value else None
  inverter = Inverter(model, encoder=encoder)
  truth = model.sample_scene(_COUNT.value, key)
  rows: dict[str, list] = {"pose_error_deg": [], "psnr": [], "normal_error_deg": []}
  rows |= {} if truth.lights is None else {"light_direction_error_deg": [], "light_error": []}
  guesses: list[float] = []
  shown: dict[str, list] = {}
  begun = time.time()
  bar = tqdm(total=_COUNT.value * inverter.config.total_steps, desc="inverting")
  for first in range(0, _COUNT.value, _BATCH.value):
    scene = jax.tree.map(lambda x, i=first: x[i : i + _BATCH.value], truth)
    cameras, lights = scene.cameras, scene.lights
    drawn = model.render(scene.latents, cameras, lights)
    rgb = np.asarray(drawn.rgb)
    found = inverter(rgb, progress=lambda done, n=len(rgb): bar.update(done * n))
    error = pose_error_deg(found.cameras.yaw, found.cameras.pitch, cameras.yaw, cameras.pitch)
    rows["pose_error_deg"] += error.tolist()
    rows["psnr"] += list(found.psnr)
    rows["normal_error_deg"] += list(_normal_error(drawn, found.rendering))
    if lights is not None:
      rows["light_direction_error_deg"] += list(_angle_deg(found.lights.direction, lights.direction))
      rows["light_error"] += list(np.abs(np.asarray(found.lights.code - lights.code)).mean(-1))
    if encoder is not None:
      guess = encoder(rgb, model)[1]
      guesses += pose_error_deg(guess.yaw, guess.pitch, cameras.yaw, cameras.pitch).tolist()
    for name, picture in pictures(drawn, cameras).items():
      shown.setdefault(f"{name}", []).append(picture)
      shown.setdefault(f"{name} ?", []).append(pictures(found.rendering, found.cameras)[name])
    bar.write(f"{first}: pose {np.round(rows['pose_error_deg'][first:], 2)} psnr {np.round(found.psnr, 1)}")
  seconds = (time.time() - begun) / _COUNT.value
  if encoder is not None:
    rows["encoder_pose_error_deg"] = guesses
  medians = {name: float(np.median(values)) for name, values in rows.items()}
  about = {"model": _MODEL.value, "encoder": _ENCODER.value, "count": _COUNT.value, "seconds_each": seconds}
  about |= {"machine": platform.machine(), "devices": [str(device) for device in jax.devices()]}
  rows = {name: [float(value) for value in values] for name, values in rows.items()}
  Path(_OUTPUT.value).write_text(json.dumps({**about, "medians": medians, "each": rows}, indent=1) + "\n")
  if _PICTURE.value:
    write_png(_PICTURE.value, labelled_grid({name: np.concatenate(parts) for name, parts in shown.items()}))
  names = list(medians)
  print("| model | encoder | " + " | ".join(names) + " | seconds each |")
  print("|---|---|" + "---|" * (len(names) + 1))
  cells = " | ".join(f"{medians[name]:.2f}" for name in names)
  print(f"| {_MODEL.value} | {'yes' if encoder else 'no'} | {cells} | {seconds:.0f} |")
  print(f"\nmedians over {_COUNT.value} latents")


def _angle_deg(a, b):
  import numpy as np

  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, -1)))


def _normal_error(drawn, found):
  """Median angle between the normals of two renderings, in the world, where both are solid; one number per picture."""
  import numpy as np

  solid = (np.asarray(drawn.acc) > 0.9) & (np.asarray(found.acc) > 0.9)
  angles = _angle_deg(drawn.normals, found.normals)
  return [float(np.median(angle[mask])) if mask.any() else 180.0 for angle, mask in zip(angles, solid, strict=True)]


if __name__ == "__main__":
  app.run(main)
