"""Evaluation of a checkpoint: the measures that its config lists, alarms, and a preview."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from shapegan_jax.checkpoints import read_config, write_json
from shapegan_jax.data.sources import Source, open_source
from shapegan_jax.evaluation.health import alarms
from shapegan_jax.evaluation.measures import Context, listed, meanings, measure_all
from shapegan_jax.evaluation.preview import preview
from shapegan_jax.files import AnyPath, located
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build
from shapegan_jax.model import from_workdir
from shapegan_jax.reporting.progress import duration
from shapegan_jax.reporting.report import markdown
from shapegan_jax.reporting.writer import write_png, write_text
from shapegan_jax.run_settings import check_run


def evaluate(
  config: Mapping[str, Any] | None,
  workdir: str | AnyPath,
  *,
  method: Method | None = None,
  source: Source | None = None,
) -> dict[str, Any]:
  """Measure the newest checkpoint of `workdir`: a table on the terminal, `eval.json`, and `eval/report.md` with
  pictures.

  The run's own saved config defines what was trained; of `config` only the section `evaluation` is used, whose
  `measures` list what is measured (`evaluation.measures.MEASURES`).

  Raises:
    UserError: an unknown measure or setting, a missing file that a measure needs, or a workdir without a checkpoint.
  """
  workdir, saved = located(workdir), read_config(workdir)
  given = {**saved.get("evaluation", {}), **(config or {}).get("evaluation", {})}
  wanted = check_run({**saved, "evaluation": given}, data=source is None).evaluation
  samples = wanted.final_samples or wanted.samples
  settings, context = {**dataclasses.asdict(wanted), "samples": samples}, Context(workdir, saved, training=False)
  measures = listed(settings, training=False)
  for measure in measures:
    measure.prepare(settings, context)
  model = from_workdir(workdir, method or build(saved), saved)
  source = open_source(saved["data"]) if source is None else source
  begun = time.monotonic()
  numbers = measure_all(measures, model, source, settings, context)
  found = list(alarms(numbers).values())
  result = {"step": model.step, "samples": samples, **numbers, "alarms": found, "protocol": context.protocol}
  result |= context.entries
  write_json(workdir / "eval.json", result)
  write_png(workdir / "eval" / "preview.png", preview(model, count=wanted.columns))
  page = markdown(str(workdir), result, pictures={"Samples": "preview.png"}, meanings=meanings(measures))
  write_text(workdir / "eval" / "report.md", page)
  print(f"{workdir}: step {model.step}, {samples} samples, {duration(time.monotonic() - begun)}")
  for name, value in numbers.items():
    print(f"  {name:<40} {value:9.4f}")
  for line in found:
    print(f"  alarm: {line}")
  print(f"  {workdir / 'eval' / 'report.md'}")
  return result
