"""Quality of the shapes that GAN2Shape finds in unseen images: SIDE and MAD against ground truth.

  python -m benchmarks.lift --model=gan2shape-heads --workdir=runs/lift
  python -m benchmarks.lift --model=gan2shape-heads --workdir=runs/lift --full=2 --shapes=runs/depth/shapes.json

The first `--count` test images are projected into the generator and lifted from the jointly trained networks in
batches, each image with its own weights. Errors are those of the reconstruction's depth in the predicted view, inside
the intersection of its valid area and the ground truth's (Unsup3D's masks). They are printed beside those of constant
depth, of the training set's mean depth, of the initial ellipsoid and, with `--shapes`, the rows of benchmarks.shapes
(on the whole test set). Round 0 is the prediction of the jointly trained networks. Prints Markdown and writes
`lift.json`, with the numbers of every image, to the workdir. A stopped run is resumed by the same command; `--merge`
adds the results of other processes (`--first`) from their workdirs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

import shapegan_jax
from shapegan_jax import parallel
from shapegan_jax.checkpoints import write_json
from shapegan_jax.data.sources import open_source
from shapegan_jax.evaluation.depth_protocol import Pairs, average_depth, checksum
from shapegan_jax.evaluation.shapes import CONSTANT, MEAN, depth_picture
from shapegan_jax.inversion.projection import ProjectionConfig, Projector
from shapegan_jax.methods.gan2shape.engine_settings import InstanceImages, StagedState
from shapegan_jax.methods.gan2shape.instance_training import (
  InstanceTrainer,
  Position,
  Symmetry,
  instance_config,
  loss_history,
  with_estimated_views,
)
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.metrics import depth_errors
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.tools.lift import open_generator, schedule_of
from shapegan_jax.types import PyTree

_MODEL = flags.DEFINE_string("model", "gan2shape-heads", "Jointly trained GAN2Shape model.")
_GAN = flags.DEFINE_string("gan", None, "Its StyleGAN2, if it is not at the path stored in the model.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/lift", "Folder for results and unfinished runs.")
_DATA = flags.DEFINE_string("data", "heads", "Data set with ground truth: heads or synface.")
_PATH = flags.DEFINE_string("path", None, "Its directory, unless it is embedded.")
_FOV = flags.DEFINE_float("fov", 12.0, "Field of view of its images, in degrees (synface: 10).")
_FAR = flags.DEFINE_float("far", 1.12, "Depth of its background (synface: 1.1).")
_COUNT = flags.DEFINE_integer("count", 50, "Number of test images.")
_FIRST = flags.DEFINE_integer("first", 0, "Index of the first one, if other processes do the earlier ones.")
_BATCH = flags.DEFINE_integer("batch", 2, "Images at a time.")
_SCHEDULE = flags.DEFINE_list("schedule", ["short"], "As shapegan lift --schedule, with commas.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "As shapegan lift --rounds.")
_SYMMETRY = flags.DEFINE_enum("symmetry", "first", ["none", "first", "all"], "As shapegan lift --symmetry.")
_FULL = flags.DEFINE_integer("full", 0, "Number of images that are also lifted with --full_schedule.")
_FULL_SCHEDULE = flags.DEFINE_string("full_schedule", "bfm", "bfm or full, as published.")
_STEPS = flags.DEFINE_integer("projection_steps", ProjectionConfig().steps, "As shapegan lift --projection-steps.")
_STARTS = flags.DEFINE_integer("projection_starts", 1, "As shapegan lift --projection-starts.")
_MERGE = flags.DEFINE_list("merge", [], "Workdirs of other processes whose results are added.")
_SHAPES = flags.DEFINE_string("shapes", None, "The shapes.json of benchmarks.shapes, for rows of other methods.")

ELLIPSOID = "ellipsoid"
NUMBERS = ("side_e2", "mad_deg", "mad_released_deg")


@dataclasses.dataclass(frozen=True)
class Truth:
  """Test images with their depth."""

  pairs: Pairs
  fov: float

  def errors(self, depth: np.ndarray, valid: np.ndarray, index: np.ndarray) -> list[dict[str, float]]:
    """Errors of depth maps [n, h, w], inside `valid`, for the test images `index` [n]."""
    true, mask = self.pairs.depth[index], depth_errors.common_mask(valid, self.pairs.mask[index])
    columns = [100 * np.asarray(depth_errors.side(depth, true, mask))]
    for meaning in ("paper", "released"):
      columns.append(np.asarray(depth_errors.mad(depth, true, mask, fov=self.fov, meaning=meaning)))
    return [dict(zip(NUMBERS, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


class ScheduleBenchmark:
  """Lifts batches of test images by one schedule and stores their errors in `results[name]`."""

  def __init__(
    self,
    name: str,
    config: Mapping[str, Any],
    networks: PyTree | None,
    gan: FrozenGan,
    truth: Truth,
    results: dict[str, Any],
  ):
    self.name, self.truth, self.results = name, truth, results
    self.networks, self.gan = networks, gan
    self.trainer = InstanceTrainer(config)
    method = self.trainer.method
    self._render = jax.jit(lambda params, images: method.reconstruct(params, images).rendered)

  def lift(self, index: list[int], instances: InstanceImages) -> bool:
    """Lift a batch of images, unless its results are there already; False if it was stopped."""
    rows = self.results.setdefault(self.name, {})
    if all("seconds" in rows.get(str(i), {}) for i in index):
      return True
    workdir = Path(_WORKDIR.value) / "runs" / f"{self.name}_{index[0]}"
    dependencies = {"gan": self.gan, "instances": instances, "networks": self.networks}
    bar = tqdm(total=self.trainer.total, desc=f"{self.name} {index[0]}", leave=False, dynamic_ncols=True)

    def measure(position: Position, state: StagedState) -> None:
      if position.mode == "joint":
        self._store_errors(index, position.round, state.params, instances)

    if self.networks is not None:
      initial = jax.tree.map(lambda x: np.broadcast_to(x, (len(index), *x.shape)), self.networks)
      self._store_errors(index, 0, initial, instances)
    with bar:
      state = self.trainer(
        dependencies,
        workdir=workdir,
        identity={"images": checksum([np.asarray(instances.image)])},
        on_step=lambda position, metrics: bar.update(position.done - bar.n),
        on_stage_end=measure,
      )
    if state is None:
      return False
    seconds = loss_history(workdir)[1] / len(set(index))
    for i in index:
      rows[str(i)]["seconds"] = seconds
    self._write()
    shutil.rmtree(workdir, ignore_errors=True)  # several hundred megabytes
    return True

  def _store_errors(self, index: list[int], number: int, params: PyTree, instances: InstanceImages) -> None:
    """Compute the errors of a round and write them at once, so that an interruption does not lose them."""
    rendered = jax.device_get(self._render(params, instances.image))
    errors = self.truth.errors(rendered.depth, rendered.valid > 0.5, np.array(index))
    for i, row in zip(index, errors, strict=True):
      self.results[self.name].setdefault(str(i), {})[f"round {number}"] = row
    self._write()
    if number == self.trainer.method.table.rounds:
      part = Pairs(*(getattr(self.truth.pairs, f.name)[index] for f in dataclasses.fields(Pairs)))
      picture = depth_picture(rendered.depth, part, self.truth.fov)
      write_png(Path(_WORKDIR.value) / "pictures" / f"{self.name}_{index[0]}.png", picture)

  def _write(self) -> None:
    write_json(Path(_WORKDIR.value) / "lift.json", self.results)


def projected(
  truth: Truth, method: Gan2Shape, index: list[int], projector: Projector, results: dict[str, Any]
) -> InstanceImages:
  """Test images projected into the generator; the latents are stored in the results."""
  images, rows = truth.pairs.images[index].astype(np.float32) / 127.5 - 1, results.setdefault("projection", {})
  if any(str(i) not in rows for i in index):
    begun = time.monotonic()
    with tqdm(total=projector.config.steps, desc=f"projecting {index[0]}", leave=False, dynamic_ncols=True) as bar:
      found = projector(images, progress=bar.update)
    seconds = (time.monotonic() - begun) / len(set(index))
    for i, psnr, latent in zip(index, found.psnr, found.latent, strict=True):
      rows[str(i)] = {"psnr": float(psnr), "seconds": seconds, "latent": latent.tolist()}
  latent = jnp.array([rows[str(i)]["latent"] for i in index])
  image = method.gan.resized(jnp.asarray(images), method.model.resolution)
  return InstanceImages(image, latent, method.masks.of(image))


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  parallel.enable_compilation_cache()
  data = {"name": _DATA.value, **({"path": _PATH.value} if _PATH.value else {})}
  pairs = Pairs.of(open_source({**data, "split": "test"}), _COUNT.value, far=_FAR.value)
  truth = Truth(pairs, math.radians(_FOV.value))
  networks, images, config, gan = open_generator(_MODEL.value, shapegan_jax.load(_MODEL.value), _GAN.value)
  if networks is not None:
    config = with_estimated_views(config, networks, images)
  pretrained = networks is not None

  def config_of(words: tuple[str, ...], rounds: int | None, symmetry: Symmetry) -> dict[str, Any]:
    schedule = schedule_of(words, rounds, pretrained=pretrained)
    return instance_config(config, schedule, pretrained=pretrained, symmetry=symmetry)

  short = config_of(tuple(_SCHEDULE.value), _ROUNDS.value, _SYMMETRY.value)
  full = config_of((_FULL_SCHEDULE.value,), None, "all" if _FULL_SCHEDULE.value == "bfm" else "first")
  projection = ProjectionConfig(steps=_STEPS.value, starts=_STARTS.value)
  identity = {
    "data": data,
    "projection": dataclasses.asdict(projection),
    "parameters": checksum([networks, gan]),
    "short": short,
    "full": full,
    "batch": _BATCH.value,
  }
  identity = json.loads(json.dumps(identity))
  path = Path(_WORKDIR.value) / "lift.json"
  results = json.loads(path.read_text()) if path.exists() else {"identity": identity}
  if results["identity"] != identity:
    raise SystemExit(f"{path}: holds results of another model or of other settings; choose another --workdir")
  for other in _MERGE.value:
    merge(results, json.loads((Path(other) / "lift.json").read_text()))
  benchmarks = {"short": ScheduleBenchmark("short", short, networks, gan, truth, results)}
  if _FULL.value:
    benchmarks["full"] = ScheduleBenchmark("full", full, networks, gan, truth, results)
  projector, method = Projector(gan, projection), benchmarks["short"].trainer.method
  baselines(results, truth, data, method)
  for name, benchmark in benchmarks.items():
    count = len(pairs) if name == "short" else min(_FULL.value, len(pairs))
    for first in range(_FIRST.value, count, _BATCH.value):
      # The last batch is padded, so that all have the same size and share one program.
      index = [min(i, len(pairs) - 1) for i in range(first, first + _BATCH.value)]
      if not benchmark.lift(index, projected(truth, method, index, projector, results)):
        print("stopped; run the same command again to resume")
        return
  report(results, benchmarks)


def merge(results: dict[str, Any], other: dict[str, Any]) -> None:
  """Add the results of another process with the same settings."""
  if other["identity"] != results["identity"]:
    raise SystemExit("--merge: results of another model or of other settings")
  for name in ("projection", "short", "full"):
    results.setdefault(name, {}).update(other.get(name, {}))


def baselines(results: dict[str, Any], truth: Truth, data: Mapping[str, Any], method: Gan2Shape) -> None:
  """Add the errors of depth maps that are not learned."""
  everywhere, index = np.ones_like(truth.pairs.mask), np.arange(len(truth.pairs))
  train = Pairs.of(open_source({**data, "split": "train"}), 1500, far=_FAR.value)
  image = truth.pairs.images.astype(np.float32) / 127.5 - 1
  maps = {
    CONSTANT: np.ones_like(truth.pairs.depth),
    MEAN: np.broadcast_to(average_depth(train), truth.pairs.depth.shape),
    ELLIPSOID: np.asarray(method.masks.prior(method.masks.of(jnp.asarray(image)))),
  }
  for name, depth in maps.items():
    errors = truth.errors(np.asarray(depth, np.float32), everywhere, index)
    results[name] = {str(i): {"errors": row} for i, row in enumerate(errors)}


def report(results: dict[str, Any], benchmarks: Mapping[str, ScheduleBenchmark]) -> None:
  """Print the table."""
  print(f"\n{platform.machine()}, {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
  psnr = [row["psnr"] for row in results["projection"].values()]
  seconds = [row["seconds"] for row in results["projection"].values()]
  print(f"projected to {np.median(psnr):.1f} dB (median), {np.median(seconds):.0f} s per image (median)\n")
  print("| | images | SIDE x 100 | relative to the ellipsoid | MAD | MAD as released | seconds per image |")
  print("|---" * 7 + "|")
  rows = {name: (name, "errors") for name in (CONSTANT, MEAN, ELLIPSOID)}
  for name, benchmark in benchmarks.items():
    for number in range(0 if benchmark.networks is not None else 1, benchmark.trainer.method.table.rounds + 1):
      rows[f"{name}, round {number}"] = (name, f"round {number}")
  for label, (name, key) in rows.items():
    some = {i: row for i, row in results[name].items() if key in row}
    means = {number: float(np.mean([row[key][number] for row in some.values()])) for number in NUMBERS}
    share = means["side_e2"] / np.mean([results[ELLIPSOID][i]["errors"]["side_e2"] for i in some])
    last = key == f"round {benchmarks[name].trainer.method.table.rounds}" if name in benchmarks else False
    spent = f"{np.median([row['seconds'] for row in some.values()]):.0f}" if last else ""
    cells = [len(some), f"{means['side_e2']:.3f}", f"{share:.0%}", f"{means['mad_deg']:.2f}°"]
    print(f"| {label} | " + " | ".join(map(str, [*cells, f"{means['mad_released_deg']:.2f}°", spent])) + " |")
  if _SHAPES.value:
    for label, row in json.loads(Path(_SHAPES.value).read_text()).items():
      cells = ["all", f"{row['side_e2']:.3f}", "", f"{row['mad_deg']:.2f}°", f"{row['mad_released_deg']:.2f}°", ""]
      print(f"| {label} (benchmarks.shapes) | " + " | ".join(cells) + " |")


if __name__ == "__main__":
  app.run(main)
