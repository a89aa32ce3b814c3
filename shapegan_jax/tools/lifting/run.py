"""The loop of `shapegan lift`: batches of inputs are prepared, lifted with previews, and written."""

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
from shapegan_jax.methods.gan2shape.instance_training import InstanceTrainer, Position, loss_history
from shapegan_jax.methods.stylegan2.frozen import FrozenGan
from shapegan_jax.reporting.previews import to_uint8
from shapegan_jax.reporting.progress import duration
from shapegan_jax.reporting.writer import write_png
from shapegan_jax.tools.lifting import inputs as lift_inputs
from shapegan_jax.tools.lifting.files import Formats, write_instance
from shapegan_jax.tools.lifting.inputs import Inputs, Prepared
from shapegan_jax.tools.lifting.renderer import Images, InstanceRenderer
from shapegan_jax.tools.lifting.sheets import preview_sheet
from shapegan_jax.types import PyTree

SamplePairs = list[dict[str, Images]]
"""Pseudo and projected samples ("pseudo", "projected") of each instance."""


@dataclasses.dataclass(frozen=True)
class LiftRun:
  """The settings of one call of the command, apart from its inputs."""

  output: Path
  model: str
  gan: FrozenGan
  networks: PyTree | None
  trainer: InstanceTrainer
  projection: ProjectionConfig
  truncation: float
  batch: int
  formats: Formats

  def __call__(self, inputs: Inputs) -> None:
    """Lift all inputs, `batch` at a time."""
    batches = [inputs[first : first + self.batch] for first in range(0, len(inputs), self.batch)]
    count = f"{len(inputs)} images" if len(inputs) > 1 else "1 image"
    print(f"lifting {count}, {self.trainer.total} steps each; the first step of each stage also compiles", flush=True)
    for number, batch in enumerate(batches):
      if not self._lift_batch(number, batch, several=len(batches) > 1):
        print(f"stopped; run the same command again to resume from {self.output}", flush=True)
        return
    print(f"{self.output / 'runs'} is only needed to resume a stopped run, and may be deleted now")

  @cached_property
  def projector(self) -> Projector:
    """The projection of photographs, compiled once."""
    return Projector(self.gan, self.projection)

  def _lift_batch(self, number: int, inputs: Inputs, *, several: bool) -> bool:
    """Lift a batch of inputs; False if it was stopped."""
    workdir = self.output / "runs" / f"{number}"
    identity = {
      "names": list(inputs.names),
      "images": checksum([inputs.images, inputs.masks]) if inputs.images is not None else list(inputs.seeds),
      "gan": checksum(self.gan),
      "networks": None if self.networks is None else checksum(self.networks),
      "projection": dataclasses.asdict(self.projection) if inputs.images is not None else None,
      "truncation": self.truncation if inputs.images is None else None,
    }
    prepared = self._prepared(workdir / "inputs.npz", inputs, identity)
    masked = inputs.masks is not None or self.trainer.method.masks.kind != "ellipse"
    renderer = InstanceRenderer(self.trainer.method, self.gan, masked=masked)
    log = RunLog(workdir, self.output / "previews", f"{number}_" if several else "", renderer, inputs.names)
    dependencies = {"gan": self.gan, "instances": prepared.instances, "networks": self.networks}
    bar = tqdm(total=self.trainer.total, leave=False, dynamic_ncols=True)

    def on_step(position: Position, metrics: Mapping[str, float]) -> None:
      loss = sum(value for name, value in metrics.items() if not name.endswith("gradient_norm"))
      bar.set_description(f"round {position.round} {position.mode}", refresh=False)
      bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
      bar.update(position.done - bar.n)

    def on_stage_end(position: Position, state: StagedState) -> None:
      if path := log.write_preview(position, state):
        bar.write(f"{path}")

    with bar:
      state = self.trainer(dependencies, workdir=workdir, identity=identity, on_step=on_step, on_stage_end=on_stage_end)
    if state is None:
      return False
    losses, seconds = loss_history(workdir)
    samples = log.samples(self.trainer.method.table.rounds)
    for index, name in enumerate(inputs.names):
      about = {
        "source": inputs.sources[index],
        "model": self.model,
        "gan": self.trainer.config["gan"].get("model"),
        "projection_psnr": None if prepared.psnr is None else float(prepared.psnr[index]),
        "batch_size": len(inputs),
        "seconds": seconds,
        "losses": losses,
        "config": self.trainer.config,
      }
      params, targets = renderer.select_instance(state, index)
      pairs = [one_round[index] for one_round in samples]
      summary = write_instance(self.output / name, renderer, params, targets, pairs, about, self.formats)
      psnr = "" if prepared.psnr is None else f", projected with a PSNR of {prepared.psnr[index]:.1f} dB"
      print(f"{summary}{psnr}, {duration(seconds / len(inputs))}", flush=True)
    return True

  def _prepared(self, path: Path, inputs: Inputs, identity: Mapping[str, Any]) -> Prepared:
    """The prepared inputs of a batch, from the file of a stopped run or computed now."""
    prepared = lift_inputs.load_prepared(path, identity)
    if prepared is None:
      total = self.projection.steps if inputs.images is not None else None
      with tqdm(total=total, desc="projecting", delay=1, leave=False, dynamic_ncols=True) as bar:
        prepared = lift_inputs.prepare(
          inputs,
          self.trainer.method,
          self.gan,
          lambda *arguments, **options: self.projector(*arguments, **options),
          truncation=self.truncation,
          progress=bar.update,
        )
      lift_inputs.save_prepared(path, prepared, identity)
    return prepared


@dataclasses.dataclass(frozen=True)
class RunLog:
  """Images written during a run: previews, and pseudo and projected samples of each round for the final sheet."""

  workdir: Path
  previews: Path
  prefix: str
  renderer: InstanceRenderer
  names: tuple[str, ...]

  def write_preview(self, position: Position, state: StagedState) -> Path | None:
    """At the end of a stage: the path of the preview, if the stage has one."""
    if position.mode not in ("encoder", "joint"):
      return None
    instances = [self.renderer.select_instance(state, index) for index in range(len(self.names))]
    if position.mode == "encoder":
      prior = state.estimates.views
      self._save_samples(
        position.round, [self.renderer.sample_pairs(*instance, prior, position.round) for instance in instances]
      )
    path = self.previews / f"{self.prefix}round_{position.round}_{position.mode}.png"
    maps = [self.renderer.maps(self.renderer.predict(*instance), instance[1]) for instance in instances]
    columns = {name: np.stack([one[name] for one in maps]) for name in maps[0]}
    write_png(path, preview_sheet(columns, self.samples(position.round)[-1], self.names))
    return path

  def samples(self, rounds: int) -> list[SamplePairs]:
    """The pseudo and projected samples of the first `rounds` rounds."""
    found: list[SamplePairs] = []
    for number in range(1, rounds + 1):
      with np.load(self._samples_path(number)) as file:
        arrays = {kind: file[kind].astype(np.float32) / 255 for kind in ("pseudo", "projected")}
      found.append([{kind: images[i] for kind, images in arrays.items()} for i in range(len(self.names))])
    return found

  def _save_samples(self, number: int, samples: SamplePairs) -> None:
    with aside(self._samples_path(number)) as temporary, temporary.open("wb") as file:
      np.savez_compressed(file, **{kind: np.stack([to_uint8(one[kind]) for one in samples]) for kind in samples[0]})

  def _samples_path(self, number: int) -> Path:
    return self.workdir / f"samples_{number}.npz"
