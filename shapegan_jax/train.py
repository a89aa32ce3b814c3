"""The training loop and nothing else: data, step, log, preview, save.

Order of events for a step: its program is dispatched, the next batch is put on the device, and only then are the
metrics of the previous step read, so that neither waits for the other. A save first waits for its own step's metrics
and refuses what is not finite. Keys and data are functions of the step, so a resumed run continues exactly where it
stopped.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from shapegan_jax import parallel
from shapegan_jax.checkpoints import Checkpoints, claim_workdir
from shapegan_jax.data import pipeline
from shapegan_jax.data.sources import Source, open_source
from shapegan_jax.errors import UserError
from shapegan_jax.evaluation.health import alarms
from shapegan_jax.evaluation.measures import Context, Measure, listed, measure_all
from shapegan_jax.evaluation.preview import preview
from shapegan_jax.files import AnyPath, located
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build, check_method, resolve
from shapegan_jax.model import Model, with_dependencies
from shapegan_jax.planning.costs import peak_bytes
from shapegan_jax.programs import stage_words, trace_update
from shapegan_jax.reporting.progress import Averages, Progress, byte_count, duration
from shapegan_jax.reporting.writer import MetricsWriter, write_png
from shapegan_jax.rng import root_key
from shapegan_jax.run_settings import RunSettings, check_run
from shapegan_jax.schedules import Stage, expected_seconds
from shapegan_jax.state import all_finite, nonfinite_names, parameter_count, parameter_table
from shapegan_jax.types import Array, Key, PyTree

TIMED_STEPS = 5  # after a compilation, from which the remaining time is estimated


@dataclasses.dataclass(frozen=True)
class Run:
  """What stays the same from the first step to the last."""

  config: Mapping[str, Any]
  settings: RunSettings
  workdir: AnyPath
  method: Method
  mesh: Mesh
  key: Key
  checkpoints: Checkpoints
  progress: Progress
  writer: MetricsWriter
  model: Model  # its parameters are replaced
  source: Source
  measures: tuple[Measure, ...]
  context: Context  # of the measures


def train(
  config: Mapping[str, Any], workdir: str | AnyPath, *, method: Method | None = None, source: Source | None = None
) -> PyTree:
  """Train to `config["num_steps"]` updates, resuming from the newest checkpoint of the workdir if there is one.

  Args:
    config: plain nested settings (`ConfigDict.to_dict()`).
    workdir: where config, checkpoints, logs and previews go.
    method, source: used instead of what the config names, for your own methods and data.

  Returns: the state after the last completed step (the run may have been asked to stop early).

  Raises:
    UserError: invalid settings, data or workdir, or a metric or parameter that is no longer finite.
  """
  settings = check_run(config, data=source is None)
  if method is None:
    check_method(config)
  measures = listed(dataclasses.asdict(settings.evaluation), training=True)
  parallel.enable_compilation_cache()
  workdir, active = located(workdir), parallel.is_writer()
  source = open_source(config["data"]) if source is None else source
  config, dependencies = with_dependencies(resolve(dict(config), source))
  method = method or build(config)
  context = Context(workdir, config, training=True)
  for measure in measures:
    measure.prepare(dataclasses.asdict(settings.evaluation), context)
  mesh = parallel.mesh_for(method.stages)
  claim_workdir(workdir, config, write=active)
  keep, asynchronous = settings.checkpoint.keep, settings.checkpoint.asynchronous
  with Checkpoints(workdir, keep=keep, asynchronous=asynchronous) as checkpoints:
    key = jax.jit(lambda: root_key(settings.seed), out_shardings=parallel.replicated(mesh))()
    state, first_step = _restore_or_init(method, key, mesh, checkpoints, parallel.put_replicated(mesh, dependencies))
    progress = Progress(total=settings.num_steps, first_step=first_step, active=active)
    writer = MetricsWriter(workdir, first_step=first_step, active=active)
    measured = Model(method, None, config), source, measures, context
    run = Run(config, settings, workdir, method, mesh, key, checkpoints, progress, writer, *measured)
    try:
      _announce(run, state, first_step)
      if first_step < settings.num_steps:
        state = _loop(run, state, first_step, _batches(run, first_step))
      checkpoints.wait()
    finally:
      progress.close()
      writer.close()
  return state


def _loop(run: Run, state: PyTree, first_step: int, batches: Iterator[PyTree]) -> PyTree:
  """Run the updates from `first_step` to the end and return the last state."""
  settings, programs, averages, alarmed = run.settings, {}, Averages(), []
  batch, pending, timed_from, begun = next(batches), None, first_step, 0.0
  with parallel.StopSignals() as stop:
    for step in range(first_step, settings.num_steps):
      done, last = step + 1, step + 1 == settings.num_steps
      stage, plan = run.method.plan(step)
      anneals = parallel.put_replicated(run.mesh, {name: np.float32(value) for name, value in plan.items()})
      if stage not in programs:
        with run.progress.paused():
          programs[stage] = _compile(run, stage, step, (state, batch, run.key, anneals))
        timed_from = step
      with jax.transfer_guard("disallow"):
        state, metrics = programs[stage](state, batch, run.key, anneals)
      if not last:
        batch = next(batches)
      if pending is not None:
        averages.add(_read(run, pending, step))
      pending = metrics
      stopping = not last and parallel.stop_agreed(done, stop.asked)
      logging = last or stopping or done % settings.log_every == 0
      saving = last or stopping or _due(done, settings.checkpoint.every)
      showing = (last or _due(done, settings.preview.every, settings.preview.first)) and settings.preview.count > 0
      measuring = (last or _due(done, settings.evaluation.every)) and settings.evaluation.samples > 0
      if logging or saving or showing or measuring:
        averages.add(_read(run, pending, done))
        pending = None
      run.progress.advance(stage.batch_size)
      if step == timed_from:  # the first step of a program also loads it
        begun = run.progress.seconds()
      elif step == timed_from + TIMED_STEPS:
        _estimate_duration(run, step, begun)
      if logging:
        _log(run, done, averages.take(), plan)
      with run.progress.paused():
        if saving:
          _save(run, state, done)
        if stopping:
          run.progress.say(f"asked to stop: step {done} is saved; the same command resumes from there")
          return state
        if showing:
          _preview(run, state, done)
        if measuring:
          samples = settings.evaluation.final_samples if last else None
          alarmed = _measure(run, state, done, alarmed, samples=samples or settings.evaluation.samples)
  run.progress.say(f"done       step {done}; shapegan_jax.load({str(run.workdir)!r}) is the trained model")
  return state


def _restore_or_init(
  method: Method, key: Key, mesh: Mesh, checkpoints: Checkpoints, given: PyTree
) -> tuple[PyTree, int]:
  """The newest checkpoint's state and its step, or a fresh state and 0."""
  sharding, step = parallel.replicated(mesh), checkpoints.latest_step()
  if step is None:
    return jax.jit(method.init, out_shardings=sharding)(key, dependencies=given), 0
  abstract = jax.eval_shape(method.init, key)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
  return checkpoints.restore(abstract, step), step


def _batches(run: Run, first_step: int) -> Iterator[PyTree]:
  """Batches on the devices, from `first_step` on; empty for a method that uses no data."""
  if not run.method.uses_data:
    return iter(dict, None)
  rows = pipeline.batches(
    run.source,
    run.method.stages,
    first_step=first_step,
    num_steps=run.settings.num_steps - first_step,
    seed=run.settings.seed,
    block=parallel.rows_of_process(run.mesh),
    **{name: value for name, value in run.config["data"].items() if name in ("flip", "resize")},
  )
  return (parallel.put_batch(run.mesh, row) for row in rows)


def _announce(run: Run, state: PyTree, first_step: int) -> None:
  """Report what this run will do before anything slow starts."""
  config, num_steps, say = run.config, run.settings.num_steps, run.progress.say
  if first_step >= num_steps:
    say(f"{run.workdir} is at step {first_step} already; --config.num_steps={2 * first_step} would train on")
    return
  say(f"training   {config['method']} in {run.workdir}, from step {first_step} to step {num_steps}")
  say(f"data       {config['data'].get('name', 'given')}, {len(run.source)} images")
  shapes: dict[str, int] = {}  # consecutive stages may differ only in details that are not shown
  for start, stage in run.method.stages:
    if start < num_steps:
      shapes.setdefault(stage_words(Stage(stage.resolution, stage.batch_size)), start)
  say(f"stages     {'; '.join(f'{shape} from step {start}' for shape, start in shapes.items())}")
  generator = run.method.params_of(state, ema=False)
  say(f"parameters {parameter_count(generator):,} in the generator (listed in parameters.txt)")
  if parallel.is_writer():
    (run.workdir / "parameters.txt").write_text(parameter_table(generator) + "\n")
  used, idle = run.mesh.devices.size, jax.device_count() - run.mesh.devices.size
  notice = f" ({idle} more are idle: the number of devices must divide every batch size)" if idle else ""
  say(f"devices    {used} x {run.mesh.devices.flat[0].device_kind}{notice}")


def _compile(run: Run, stage: Stage, step: int, arguments: tuple[PyTree, ...]) -> jax.stages.Compiled:
  """Compile the update of a stage and report its cost."""
  begun = time.monotonic()
  program = trace_update(run.method, run.mesh, stage, arguments).lower().compile()
  cost = f"a step needs {byte_count(peak_bytes(program))} on each device"
  taken = duration(time.monotonic() - begun)
  run.progress.say(f"compiled   {stage_words(stage)}; for step {step} on, in {taken}; {cost}")
  return program


def _estimate_duration(run: Run, step: int, begun: float) -> None:
  """Report the estimated remaining time, from the time since the first step of a program."""
  seconds = (run.progress.seconds() - begun) / TIMED_STEPS
  left = expected_seconds(run.method.stages, step + 1, run.settings.num_steps, seconds)
  run.progress.say(f"duration   about {duration(left)} from here, at {seconds:.3g} s a step now")


def _read(run: Run, metrics: Mapping[str, Array], done: int) -> dict[str, float]:
  """Wait for the metrics of update `done`. A non-finite one is logged and ends the run."""
  values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
  if wrong := [name for name, value in values.items() if not math.isfinite(value)]:
    run.writer.scalars(done, values)
    raise _diverged(run, f"step {done}: {wrong[0]} is {values[wrong[0]]}")
  return values


def _diverged(run: Run, what: str) -> UserError:
  run.checkpoints.wait()
  saved = run.checkpoints.latest_step()
  return UserError(
    f"{what}; training stops and {'nothing' if saved is None else f'nothing after step {saved}'} is saved; "
    "try lower learning rates (another --workdir), or look in metrics.jsonl for the step where it started"
  )


def _log(run: Run, done: int, averages: Mapping[str, float], plan: Mapping[str, float | int]) -> None:
  run.progress.report(averages)
  planned = {f"plan/{name}": value for name, value in plan.items()}
  run.writer.scalars(done, {**averages, **planned, "images_per_second": run.progress.images_per_second})
  run.progress.restart_clock()


def _save(run: Run, state: PyTree, done: int) -> None:
  if not jax.jit(all_finite)(state):
    raise _diverged(run, f"step {done}: {nonfinite_names(state)[0]} is not finite")
  run.writer.flush()
  run.checkpoints.save(done, state)


def _model(run: Run, state: PyTree, done: int) -> Model:
  return dataclasses.replace(run.model, params=parallel.local_copy(run.method.params_of(state, ema=True)), step=done)


def _preview(run: Run, state: PyTree, done: int) -> None:
  """A picture of the fixed latents. Every process renders it (the next step needs all of them); one writes it."""
  settings = run.settings.preview
  picture = preview(_model(run, state, done), count=settings.count, resolution=settings.resolution)
  if parallel.is_writer():
    path = run.workdir / "previews" / f"step_{done:06d}.png"
    write_png(path, picture)
    run.writer.image(done, "preview", picture)
    run.progress.say(f"preview    {path}")


def _measure(run: Run, state: PyTree, done: int, alarmed: list[str], *, samples: int) -> list[str]:
  """Log the measures and report alarms that started or ended. Returns the kinds of active alarms."""
  settings = {**dataclasses.asdict(run.settings.evaluation), "samples": samples}
  numbers = measure_all(run.measures, _model(run, state, done), run.source, settings, run.context)
  run.writer.scalars(done, numbers)
  active = alarms(numbers)
  for kind, sentence in active.items():
    if kind not in alarmed:
      run.progress.say(f"warning    step {done}: {sentence}")
  for kind in sorted(set(alarmed) - set(active)):
    run.progress.say(f"well       step {done}: no longer {kind}")
  return list(active)


def _due(done: int, every: int, first: int = 0) -> bool:
  """Every `every` steps (0: never), and once after `first`."""
  return (every > 0 and done % every == 0) or done == first
