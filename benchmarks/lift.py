"""How good the shapes are that GAN2Shape finds in pictures it has never seen: SIDE and MAD against ground truth.

  python -m benchmarks.lift --model=gan2shape-heads --workdir=runs/lift
  python -m benchmarks.lift --model=gan2shape-heads --workdir=runs/lift --full=2 --shapes=runs/depth/shapes.json

The first `--count` test pictures are projected into the generator and lifted from the jointly trained networks, some
at a time, each with weights of its own. Errors are those of the depth that the reconstruction shows in the picture's
own view, where it is valid and the truth is (Unsup3D's masks), beside constant depth, the training set's mean, the
ellipsoid that everything starts from, and, of `--shapes`, the rows of benchmarks.shapes (on the whole test set). The
rows of round 0 are what the jointly trained networks say at once. Prints Markdown and writes `lift.json` to the
workdir, with every picture's numbers. Stopped at any moment it goes on when called again; `--merge` takes over what
other processes (`--first`) have left in workdirs of theirs.
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
from shapegan_jax.methods.gan2shape.engine_settings import StagedState, Subjects
from shapegan_jax.methods.gan2shape.method import instances as lifting
from shapegan_jax.metrics import depth_errors
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.tools.lift import open_generator, schedule_of

_MODEL = flags.DEFINE_string("model", "gan2shape-heads", "GAN2Shape model, trained on many pictures.")
_GAN = flags.DEFINE_string("gan", None, "Its StyleGAN2, where it is not where the model says.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/lift", "Folder for results and runs under way.")
_DATA = flags.DEFINE_string("data", "heads", "Data set with ground truth: heads or synface.")
_PATH = flags.DEFINE_string("path", None, "Its directory, where it is not embedded.")
_FOV = flags.DEFINE_float("fov", 12.0, "Angle of view of its pictures, in degrees (synface: 10).")
_FAR = flags.DEFINE_float("far", 1.12, "Depth of its background (synface: 1.1).")
_COUNT = flags.DEFINE_integer("count", 50, "How many test pictures.")
_FIRST = flags.DEFINE_integer("first", 0, "The first of them, where other processes do those before.")
_BATCH = flags.DEFINE_integer("batch", 2, "How many at a time.")
_SCHEDULE = flags.DEFINE_list("schedule", ["short"], "As shapegan lift --schedule, with commas.")
_ROUNDS = flags.DEFINE_integer("rounds", None, "As shapegan lift --rounds.")
_SYMMETRY = flags.DEFINE_enum("symmetry", "first", ["none", "first", "all"], "As shapegan lift --symmetry.")
_FULL = flags.DEFINE_integer("full", 0, "The first so many pictures also by --full_schedule.")
_FULL_SCHEDULE = flags.DEFINE_string("full_schedule", "bfm", "bfm or full, as published.")
_STEPS = flags.DEFINE_integer("projection_steps", ProjectionConfig().steps, "Of each projection.")
_STARTS = flags.DEFINE_integer("projection_starts", 1, "Of each projection.")
_MERGE = flags.DEFINE_list("merge", [], "Workdirs of other processes, whose pictures need not be done again.")
_SHAPES = flags.DEFINE_string("shapes", None, "The shapes.json of benchmarks.shapes, for rows of other methods.")

ELLIPSOID = "ellipsoid"
NUMBERS = ("side_e2", "mad_deg", "mad_released_deg")


@dataclasses.dataclass(frozen=True)
class Truth:
  """Test pictures with their depth."""

  pairs: Pairs
  fov: float

  def errors(self, depth: np.ndarray, valid: np.ndarray, index: np.ndarray) -> list[dict[str, float]]:
    """Of depth maps [n, h, w], valid where they mean something, of the pictures `index` [n]."""
    true, mask = self.pairs.depth[index], depth_errors.common_mask(valid, self.pairs.mask[index])
    columns = [100 * np.asarray(depth_errors.side(depth, true, mask))]
    for meaning in ("paper", "released"):
      columns.append(np.asarray(depth_errors.mad(depth, true, mask, fov=self.fov, meaning=meaning)))
    return [dict(zip(NUMBERS, map(float, row), strict=True)) for row in zip(*columns, strict=True)]


class Bench:
  """Lifts groups of test pictures by one schedule and keeps what it measures in `results[name]`."""

  def __init__(self, name: str, config: Mapping[str, Any], opened: tuple[Any, Any], truth: Truth, results: dict):
    self.name, self.truth, self.results = name, truth, results
    self.networks, self.gan = opened
    self.lifter = lifting.Lifter(config)
    method = self.lifter.method
    self._see = jax.jit(lambda params, images: method.reconstruct(params, images).seen)

  def group(self, index: list[int], subjects: Subjects) -> bool:
    """Lift some pictures unless it is done; False if it was stopped."""
    rows = self.results.setdefault(self.name, {})
    if all("seconds" in rows.get(str(i), {}) for i in index):
      return True
    workdir = Path(_WORKDIR.value) / "runs" / f"{self.name}_{index[0]}"
    given = {"gan": self.gan, "subjects": subjects, "networks": self.networks}
    bar = tqdm(total=self.lifter.total, desc=f"{self.name} {index[0]}", leave=False, dynamic_ncols=True)

    def measure(turn: lifting.Turn, state: StagedState) -> None:
      if turn.mode == "joint":
        self._note(index, turn.round, state.params, subjects)

    if self.networks is not None:
      started = jax.tree.map(lambda x: np.broadcast_to(x, (len(index), *x.shape)), self.networks)
      self._note(index, 0, started, subjects)
    with bar:
      state = self.lifter(
        given,
        workdir=workdir,
        identity={"pictures": checksum([np.asarray(subjects.image)])},
        stepped=lambda turn, metrics: bar.update(turn.done - bar.n),
        ended=measure,
      )
    if state is None:
      return False
    seconds = lifting.history(workdir)[1] / len(set(index))
    for i in index:
      rows[str(i)]["seconds"] = seconds
    self._write()
    shutil.rmtree(workdir, ignore_errors=True)  # some hundred megabytes
    return True

  def _note(self, index: list[int], number: int, params: Any, subjects: Subjects) -> None:
    """Errors of a round, written at once: an interruption does not lose them."""
    seen = jax.device_get(self._see(params, subjects.image))
    found = self.truth.errors(seen.depth, seen.valid > 0.5, np.array(index))
    for i, row in zip(index, found, strict=True):
      self.results[self.name].setdefault(str(i), {})[f"round {number}"] = row
    self._write()
    if number == self.lifter.method.table.rounds:
      part = Pairs(*(getattr(self.truth.pairs, f.name)[index] for f in dataclasses.fields(Pairs)))
      picture = depth_picture(seen.depth, part, self.truth.fov)
      write_png(Path(_WORKDIR.value) / "pictures" / f"{self.name}_{index[0]}.png", picture)

  def _write(self) -> None:
    write_json(Path(_WORKDIR.value) / "lift.json", self.results)


def projected(truth: Truth, gan: Any, method: Any, index: list[int], projector: Projector, results: dict) -> Subjects:
  """Subjects of test pictures, projected into the generator; what was found is kept among the results."""
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
  return Subjects(image, latent, method.masks.of(image))


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  parallel.enable_compilation_cache()
  data = {"name": _DATA.value, **({"path": _PATH.value} if _PATH.value else {})}
  pairs = Pairs.of(open_source({**data, "split": "test"}), _COUNT.value, far=_FAR.value)
  truth = Truth(pairs, math.radians(_FOV.value))
  networks, pictures, config, gan = open_generator(_MODEL.value, shapegan_jax.load(_MODEL.value), _GAN.value)
  if networks is not None:
    config = lifting.with_measured_views(config, networks, pictures)
  pretrained = networks is not None

  def settled(words: tuple[str, ...], rounds: int | None, symmetry: lifting.Symmetry) -> dict[str, Any]:
    schedule = schedule_of(words, rounds, pretrained=pretrained)
    return lifting.instance_config(config, schedule, pretrained=pretrained, symmetry=symmetry)

  short = settled(tuple(_SCHEDULE.value), _ROUNDS.value, _SYMMETRY.value)
  full = settled((_FULL_SCHEDULE.value,), None, "all" if _FULL_SCHEDULE.value == "bfm" else "first")
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
  benches = {"short": Bench("short", short, (networks, gan), truth, results)}
  if _FULL.value:
    benches["full"] = Bench("full", full, (networks, gan), truth, results)
  projector, method = Projector(gan, projection), benches["short"].lifter.method
  baselines(results, truth, data, method)
  for name, bench in benches.items():
    count = len(pairs) if name == "short" else min(_FULL.value, len(pairs))
    for first in range(_FIRST.value, count, _BATCH.value):
      # The last group is filled up, so that one program serves them all.
      index = [min(i, len(pairs) - 1) for i in range(first, first + _BATCH.value)]
      if not bench.group(index, projected(truth, gan, method, index, projector, results)):
        print("stopped; the same command goes on")
        return
  report(results, benches)


def merge(results: dict[str, Any], other: dict[str, Any]) -> None:
  """Take over the pictures of another process with the same settings."""
  if other["identity"] != results["identity"]:
    raise SystemExit("--merge: results of another model or of other settings")
  for name in ("projection", "short", "full"):
    results.setdefault(name, {}).update(other.get(name, {}))


def baselines(results: dict[str, Any], truth: Truth, data: Mapping[str, Any], method: Any) -> None:
  """Rows that nothing has been learned for."""
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


def report(results: dict[str, Any], benches: Mapping[str, Bench]) -> None:
  """The table."""
  print(f"\n{platform.machine()}, {jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}")
  psnr = [row["psnr"] for row in results["projection"].values()]
  seconds = [row["seconds"] for row in results["projection"].values()]
  print(f"projected to {np.median(psnr):.1f} dB (median), {np.median(seconds):.0f} s a picture (median)\n")
  print("| | pictures | SIDE x 100 | of the ellipsoid's | MAD | MAD as released | seconds a picture |")
  print("|---" * 7 + "|")
  rows = {name: (name, "errors") for name in (CONSTANT, MEAN, ELLIPSOID)}
  for name, bench in benches.items():
    for number in range(0 if bench.networks is not None else 1, bench.lifter.method.table.rounds + 1):
      rows[f"{name}, round {number}"] = (name, f"round {number}")
  for label, (name, key) in rows.items():
    some = {i: row for i, row in results[name].items() if key in row}
    means = {number: float(np.mean([row[key][number] for row in some.values()])) for number in NUMBERS}
    share = means["side_e2"] / np.mean([results[ELLIPSOID][i]["errors"]["side_e2"] for i in some])
    last = key == f"round {benches[name].lifter.method.table.rounds}" if name in benches else False
    spent = f"{np.median([row['seconds'] for row in some.values()]):.0f}" if last else ""
    cells = [len(some), f"{means['side_e2']:.3f}", f"{share:.0%}", f"{means['mad_deg']:.2f}°"]
    print(f"| {label} | " + " | ".join(map(str, [*cells, f"{means['mad_released_deg']:.2f}°", spent])) + " |")
  if _SHAPES.value:
    for label, row in json.loads(Path(_SHAPES.value).read_text()).items():
      cells = ["all", f"{row['side_e2']:.3f}", "", f"{row['mad_deg']:.2f}°", f"{row['mad_released_deg']:.2f}°", ""]
      print(f"| {label} (benchmarks.shapes) | " + " | ".join(cells) + " |")


if __name__ == "__main__":
  app.run(main)
