"""The work of `shapegan lift`: groups of subjects are placed, lifted with previews, and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shapegan_jax.evaluation.depth_protocol import checksum
from shapegan_jax.files import aside
from shapegan_jax.inversion.projection import ProjectionConfig, Projector
from shapegan_jax.methods.gan2shape.engine_settings import StagedState
from shapegan_jax.methods.gan2shape.instances import Lifter, Turn, history
from shapegan_jax.reporting.previews import to_uint8
from shapegan_jax.reporting.progress import duration
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.tools.lifting import subjects as lift_subjects
from shapegan_jax.tools.lifting.files import Formats, write_subject
from shapegan_jax.tools.lifting.pictures import Pictures, Studio
from shapegan_jax.tools.lifting.sheets import preview_sheet
from shapegan_jax.tools.lifting.subjects import Placed, Wanted
from shapegan_jax.types import PyTree

Steps = list[dict[str, Pictures]]  # for each subject


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything that a call of the command settles, whoever the subjects are."""

  output: Path
  model: str
  gan: Any
  networks: PyTree | None
  lifter: Lifter
  projection: ProjectionConfig
  truncation: float
  batch: int
  formats: Formats

  def __call__(self, wanted: Wanted) -> None:
    """Lift them all, `batch` at a time."""
    groups = [wanted[first : first + self.batch] for first in range(0, len(wanted), self.batch)]
    several = f"{len(wanted)} pictures" if len(wanted) > 1 else "a picture"
    print(f"lifting {several} in {self.lifter.total} steps each; the first of each kind take longer", flush=True)
    for number, group in enumerate(groups):
      if not self._group(number, group, several=len(groups) > 1):
        print(f"stopped; the same command goes on from {self.output}", flush=True)
        return
    print(f"{self.output / 'runs'} holds what a stopped run goes on from, and may be deleted now")

  @cached_property
  def projector(self) -> Projector:
    """Compiled once."""
    return Projector(self.gan, self.projection)

  def _group(self, number: int, wanted: Wanted, *, several: bool) -> bool:
    """Lift a group; False if it was stopped."""
    workdir = self.output / "runs" / f"{number}"
    identity = {
      "subjects": list(wanted.names),
      "pictures": checksum([wanted.images, wanted.masks]) if wanted.images is not None else list(wanted.seeds),
      "gan": checksum(self.gan),
      "networks": None if self.networks is None else checksum(self.networks),
      "projection": dataclasses.asdict(self.projection) if wanted.images is not None else None,
      "truncation": self.truncation if wanted.images is None else None,
    }
    placed = self._placed(workdir / "subjects.npz", wanted, identity)
    masked = wanted.masks is not None or self.lifter.method.masks.kind != "ellipse"
    studio = Studio(self.lifter.method, self.gan, masked=masked)
    journal = Journal(workdir, self.output / "previews", f"{number}_" if several else "", studio, wanted.names)
    given = {"gan": self.gan, "subjects": placed.subjects, "networks": self.networks}
    bar = tqdm(total=self.lifter.total, leave=False, dynamic_ncols=True)

    def stepped(turn: Turn, metrics: Mapping[str, float]) -> None:
      loss = sum(value for name, value in metrics.items() if not name.endswith("gradient_norm"))
      bar.set_description(f"round {turn.round} {turn.mode}", refresh=False)
      bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
      bar.update(turn.done - bar.n)

    def ended(turn: Turn, state: StagedState) -> None:
      if path := journal(turn, state):
        bar.write(f"{path}")

    with bar:
      state = self.lifter(given, workdir=workdir, identity=identity, stepped=stepped, ended=ended)
    if state is None:
      return False
    rounds, seconds = history(workdir)
    for index, name in enumerate(wanted.names):
      about = {
        "source": wanted.sources[index],
        "model": self.model,
        "gan": self.lifter.config["gan"].get("model"),
        "projection_psnr": None if placed.psnr is None else float(placed.psnr[index]),
        "subjects_at_once": len(wanted),
        "seconds": seconds,
        "losses": rounds,
        "config": self.lifter.config,
      }
      params, targets = studio.subject_of(state, index)
      steps = [one[index] for one in journal.steps(self.lifter.method.table.rounds)]
      said = write_subject(self.output / name, studio, params, targets, steps, about, self.formats)
      near = "" if placed.psnr is None else f", projected to {placed.psnr[index]:.1f} dB"
      print(f"{said}{near}, {duration(seconds / len(wanted))}", flush=True)
    return True

  def _placed(self, path: Path, wanted: Wanted, identity: Mapping[str, Any]) -> Placed:
    """The group's subjects, from its folder or found now."""
    found = lift_subjects.kept(path, identity)
    if found is None:
      total = self.projection.steps if wanted.images is not None else None
      with tqdm(total=total, desc="projecting", delay=1, leave=False, dynamic_ncols=True) as bar:
        found = lift_subjects.place(
          wanted,
          self.lifter.method,
          self.gan,
          lambda *arguments, **options: self.projector(*arguments, **options),
          truncation=self.truncation,
          progress=bar.update,
        )
      lift_subjects.keep(path, found, identity)
    return found


@dataclasses.dataclass(frozen=True)
class Journal:
  """Pictures of a run under way: previews for people, and samples of each round's drawings for its last sheet."""

  workdir: Path
  previews: Path
  prefix: str
  studio: Studio
  names: tuple[str, ...]

  def __call__(self, turn: Turn, state: StagedState) -> Path | None:
    """At the end of a stage: the preview's path, if there is one."""
    if turn.mode not in ("encoder", "joint"):
      return None
    subjects = [self.studio.subject_of(state, index) for index in range(len(self.names))]
    if turn.mode == "encoder":
      steps = [self.studio.samples(*subject, state.memory.views, turn.round) for subject in subjects]
      self._keep(turn.round, steps)
    path = self.previews / f"{self.prefix}round_{turn.round}_{turn.mode}.png"
    maps = [self.studio.maps(self.studio.look(*subject), subject[1]) for subject in subjects]
    columns = {name: np.stack([one[name] for one in maps]) for name in maps[0]}
    write_png(path, preview_sheet(columns, self.steps(turn.round)[-1], self.names))
    return path

  def steps(self, rounds: int) -> list[Steps]:
    """Of each of the rounds so far and each subject, drawings and what the generator made of them."""
    found: list[Steps] = []
    for number in range(1, rounds + 1):
      with np.load(self._file(number)) as file:
        arrays = {kind: file[kind].astype(np.float32) / 255 for kind in ("drawn", "GAN")}
      found.append([{kind: values[i] for kind, values in arrays.items()} for i in range(len(self.names))])
    return found

  def _keep(self, number: int, steps: Steps) -> None:
    with aside(self._file(number)) as temporary, temporary.open("wb") as file:
      np.savez_compressed(file, **{kind: np.stack([to_uint8(one[kind]) for one in steps]) for kind in steps[0]})

  def _file(self, number: int) -> Path:
    return self.workdir / f"steps_{number}.npz"
