"""The loop: a stopped run resumes to the bits of an uninterrupted one, and a diverged run saves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from toy_method import ToyMethod, ToySource, toy_config

from shapegan_jax import parallel
from shapegan_jax.data import pipeline
from shapegan_jax.errors import UserError
from shapegan_jax.evaluation.evaluate import evaluate
from shapegan_jax.evaluation.health import alarms, data_depth_deviation, shape_report
from shapegan_jax.programs import abstract_arguments
from shapegan_jax.reporting import previews
from shapegan_jax.reporting.progress import Progress, duration
from shapegan_jax.reporting.writer import MetricsWriter
from shapegan_jax.schedules import Stage, expected_seconds
from shapegan_jax.train import train
from shapegan_jax.types import Scene

ROOT = Path(__file__).resolve().parent.parent
TOY = Path(__file__).with_name("toy_method.py")


def run(workdir, num_steps, **changes):
  return train(toy_config(num_steps, **changes), workdir, method=ToyMethod(), source=ToySource())


def logged(workdir):
  path = workdir / "metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def saved_steps(workdir):
  return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def start_slow(workdir):
  """The toy in a process of its own, about 20 steps a second, without an end in sight."""
  return subprocess.Popen(
    [sys.executable, str(TOY), str(workdir), "100000", "0.01"],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for_step(process, workdir, step):
  deadline = time.monotonic() + 90
  while not any(line["step"] >= step for line in logged(workdir)):
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_stopped_and_killed_runs_resume_to_the_same_bits(tmp_path):
  """SIGTERM at any step saves that step; after kill -9 the run resumes from the last complete checkpoint."""
  asked, killed = start_slow(tmp_path / "asked"), start_slow(tmp_path / "killed")
  wait_for_step(asked, tmp_path / "asked", 5)
  asked.send_signal(signal.SIGTERM)
  wait_for_step(killed, tmp_path / "killed", 8)
  killed.kill()
  said = asked.communicate(timeout=60)[0]
  killed.communicate()
  assert asked.returncode == 0, said
  stopped_at = logged(tmp_path / "asked")[-1]["step"]
  assert saved_steps(tmp_path / "asked")[-1] == stopped_at
  assert f"step {stopped_at} is saved; the same command resumes" in said
  assert killed.returncode == -signal.SIGKILL
  assert all(step % 3 == 0 for step in saved_steps(tmp_path / "killed"))

  end = max(stopped_at, logged(tmp_path / "killed")[-1]["step"]) + 4
  straight = run(tmp_path / "straight", end)
  for interrupted in ("asked", "killed"):
    assert_same_bits(run(tmp_path / interrupted, end), straight)
    lines = logged(tmp_path / interrupted)
    assert [line["step"] for line in lines if "color" in line] == list(range(1, end + 1))
    for line, expected in zip(lines, logged(tmp_path / "straight"), strict=True):
      assert line["color"] == expected["color"] if "color" in line else line == expected


def test_a_run_leaves_logs_pictures_events_and_the_newest_checkpoints(tmp_path, capsys):
  seen = {"preview": {"every": 4, "first": 2, "count": 2, "resolution": 8}}
  run(tmp_path, 7, **seen, evaluation={"every": 0, "samples": 3, "final_samples": 4, "resolution": 16}, log_every=2)
  assert saved_steps(tmp_path) == [6, 7]
  assert sorted(p.name for p in (tmp_path / "previews").iterdir()) == [f"step_00000{n}.png" for n in (2, 4, 7)]
  with Image.open(tmp_path / "previews" / "step_000007.png") as picture:
    assert picture.width > 2 * 64
  lines = logged(tmp_path)
  assert [line["step"] for line in lines] == [2, 4, 6, 7, 7]
  assert lines[0]["plan/rate"] == pytest.approx(0.2 / 1.1)
  assert lines[-1]["shape/convex_share"] == 1.0
  assert 0.5 < lines[-1]["shape/depth_deviation_ratio"] < 1.5
  assert lines[-1]["shape/normal_disagreement_deg"] < 10
  assert list((tmp_path / "events").iterdir())
  assert not list(tmp_path.rglob(".*"))  # nothing half-written
  said = capsys.readouterr().out
  for words in (
    "training   toy",
    "12 images",
    "4x4, batch 4 from step 0; 8x8",
    "4 in the generator",
    "devices    2 x cpu",
  ):
    assert words in said
  assert "compiled   8x8, batch 2; for step 3 on" in said
  assert "on each device" in said
  assert "done       step 7" in said

  assert int(run(tmp_path, 7).step) == 7
  assert "--config.num_steps=14 would train on" in capsys.readouterr().out


def test_averages_in_the_log_are_means_over_the_interval(tmp_path):
  run(tmp_path / "each", 6)
  run(tmp_path / "pairs", 6, log_every=2)
  each = [line["color"] for line in logged(tmp_path / "each") if "color" in line]
  pairs = [line["color"] for line in logged(tmp_path / "pairs") if "color" in line]
  np.testing.assert_allclose(pairs, np.reshape(each, (3, 2)).mean(1), rtol=1e-6)


def test_another_config_is_refused_and_the_difference_said(tmp_path):
  run(tmp_path, 3)
  with pytest.raises(UserError, match=r"seed: 3 -> 4; choose another --workdir") as info:
    run(tmp_path, 5, seed=4)
  assert "num_steps" not in str(info.value)
  assert saved_steps(tmp_path) == [3]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  with pytest.raises(UserError, match="nothing after step 6 is saved") as info:
    train(toy_config(20, log_every=5), tmp_path, method=ToyMethod(poison=(7, "loss")), source=ToySource())
  # It is read one step late but belongs to its own step.
  assert str(info.value).startswith("step 8: color is nan")
  assert saved_steps(tmp_path) == [3, 6]
  assert logged(tmp_path)[-1] == {"step": 8, "color": "nan", "radius": pytest.approx(0, abs=1e-2)}


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
  with pytest.raises(UserError, match="step 9: generator/radius is not finite"):
    train(toy_config(20), tmp_path, method=ToyMethod(poison=(8, "params")), source=ToySource())
  assert saved_steps(tmp_path) == [3, 6]


def test_evaluation_measures_the_newest_checkpoint(tmp_path, capsys):
  run(tmp_path, 3)
  result = evaluate({"evaluation": {"samples": 4}}, tmp_path, method=ToyMethod(), source=ToySource())
  assert json.loads((tmp_path / "eval.json").read_text()) == result
  assert (result["step"], result["samples"], result["shape/convex_share"]) == (3, 4, 1.0)
  assert "shape/convex_share" in capsys.readouterr().out
  page = (tmp_path / "eval" / "report.md").read_text()
  assert "| `shape/convex_share` | 1 |" in page
  assert (tmp_path / "eval" / "preview.png").stat().st_size > 0


def test_pictures_are_compared_with_real_ones_while_training_and_after(tmp_path):
  seen = {"evaluation": {"every": 2, "samples": 2, "images": 4, "resolution": 8, "final_images": 6}}
  run(tmp_path, 5, **seen)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  logged = {line["step"]: line["image/FD-random"] for line in lines if "image/FD-random" in line}
  assert sorted(logged) == [2, 4, 5]
  assert logged[4] > 0  # at 8 pixels; four pictures of 4 pixels are too few and too small to differ
  assert logged[5] > 0
  result = evaluate(None, tmp_path, method=ToyMethod(), source=ToySource())
  assert result["protocol"]["images"]["generated"] == 6
  assert result["image/FD-random"] > 0
  with pytest.raises(UserError, match="features"):
    evaluate({"evaluation": {"features": "nothing"}}, tmp_path, method=ToyMethod(), source=ToySource())


def test_the_number_of_samples_in_flight_changes_nothing(key):
  from shapegan_jax.model import Model

  method = ToyMethod()
  model = Model(method, method.params_of(method.init(key)), {})
  whole, parts = (shape_report(model, samples=5, batch=b, resolution=16) for b in (5, 2))
  assert whole == pytest.approx(parts, rel=1e-5)


def test_alarms_ring_for_hollow_flat_and_rough_shapes_only():
  good = {"shape/convex_share": 0.97, "shape/depth_deviation_ratio": 1.0, "shape/normal_disagreement_deg": 12.0}
  assert alarms(good) == {}
  assert alarms({}) == {}
  assert list(alarms({**good, "shape/convex_share": 0.1})) == ["hollow"]
  assert list(alarms({**good, "shape/depth_deviation_ratio": 0.2})) == ["flat"]
  assert list(alarms({**good, "shape/depth_deviation_ratio": 2.0})) == ["too deep"]
  assert list(alarms({**good, "shape/normal_disagreement_deg": 60.0})) == ["rough"]


def test_depth_deviation_of_data_needs_depth():
  source = ToySource()
  inside = source.depth[source.mask]
  assert data_depth_deviation(source) == pytest.approx(inside.std(), rel=1e-5)
  assert data_depth_deviation([{"image": np.zeros((2, 2, 3))}]) is None


def test_the_time_left_counts_the_pixels_of_later_stages():
  stages = ((0, Stage(4, 8)), (10, Stage(8, 8)), (20, Stage(8, 4)))
  assert expected_seconds(stages, 4, 30, 1.0) == pytest.approx(6 * 1 + 10 * 4 + 10 * 2)
  assert expected_seconds(stages, 12, 15, 1.0) == pytest.approx(3)
  assert [duration(s) for s in (0.2, 119, 600, 7500)] == ["1 s", "119 s", "10 min", "2 h 05 min"]


@pytest.mark.parametrize("uses_data", [True, False])
def test_an_update_is_planned_for_the_batches_that_it_gets(uses_data):
  class Toy(ToyMethod):
    pass

  Toy.uses_data = uses_data
  method = Toy()
  mesh = parallel.mesh_for(method.stages)
  for step in (0, 3):
    _, planned, _, _ = abstract_arguments(method, mesh, step)
    assert bool(planned) == uses_data
    if uses_data:
      [batch] = pipeline.batches(ToySource(), method.stages, first_step=step, num_steps=1, seed=0)
      put = parallel.put_batch(mesh, batch)
      assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), put) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), planned
      )


def test_a_clock_that_is_paused_stands_still():
  progress = Progress(total=10)
  with progress.paused():
    time.sleep(0.2)
  progress.advance(8)
  assert progress.images_per_second > 8 / 0.15


def test_a_resumed_log_drops_what_came_after_and_a_cut_line(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
  writer = MetricsWriter(tmp_path, first_step=2)
  writer.scalars(3, {"loss": 0.5, "r1": float("inf")})
  writer.close()
  assert logged(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5, "r1": "inf"}]


def test_a_preview_has_a_labelled_row_per_map_and_white_where_nothing_is(key):
  method = ToyMethod()
  cameras = method.sample_cameras(key, 2)
  scene = Scene(method.sample_latents(key, 2), cameras)
  front = method.render(method.params_of(method.init(key)), scene, resolution=16)
  grid = previews.preview_grid(front, cameras, {"yaw 0": front})
  rows, cell = 6, 64
  assert grid.shape == (rows * (cell + 2), 56 + 2 * (cell + 2), 3)
  cells = grid[:, 56:].reshape(rows, cell + 2, 2, cell + 2, 3)[:, :cell, :, :cell]
  assert (cells[1:5, 0, :, 0] == 255).all()  # corners of the maps: the ball does not reach them
  np.testing.assert_array_equal(cells[0], cells[5])
  middle = cells[3, cell // 2, :, cell // 2].astype(float) / 255
  np.testing.assert_allclose(middle, [[0.5, 0.5, 1.0]] * 2, atol=0.1)  # facing the camera, whatever its yaw
  depth = cells[4, cell // 2, 0, :, 0].astype(int)
  assert depth[cell // 2] > depth[cell // 4 + 6] - 1  # near is light
  assert (grid[:, :56] < 255).any()  # labels


FLAGS_PROGRAM = """
import json, os, runpy, sys
import absl.app, ml_collections.config_flags  # once; each command line is a fork
answers = []
for i, arguments in enumerate(json.loads(sys.argv[1])):
  if not (child := os.fork()):
    os.dup2(os.open(f"{i}.out", os.O_CREAT | os.O_WRONLY), 1)
    os.dup2(os.open(f"{i}.err", os.O_CREAT | os.O_WRONLY), 2)
    sys.argv = ["main", *arguments]
    try:
      runpy.run_module("shapegan_jax.main", run_name="__main__")
    except SystemExit as stop:
      sys.stdout.flush()
      os._exit(99 if "jax" in sys.modules else stop.code)
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  answers.append((code, open(f"{i}.out").read(), open(f"{i}.err").read()))
print(json.dumps(answers))
"""


def test_help_and_mistakes_in_flags_do_not_start_jax(tmp_path):
  """Every mistake is one line on stderr that says what is wrong, and exit code 2."""
  config, workdir = tmp_path / "c.py", "--workdir=w"
  config.write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config(preset='heads'):\n"
    "  if preset != 'heads': raise ValueError(f'no preset {preset!r}; choose one of: heads')\n"
    "  return ConfigDict({'num_steps': 3, 'data': {'size': 4}})\n"
  )
  mistakes = [
    ([f"--config={config}", workdir, "--config.data.sise=5"], "no such setting: sise; Did you mean size"),
    ([f"--config={config}:bad", workdir], "no preset 'bad'; choose one of: heads"),
    ([f"--config={config}", workdir, "--config.num_steps=many"], "num_steps=many"),
    ([f"--config={tmp_path}/none.py", workdir], "none.py"),
    ([f"--config={config}"], "--workdir is missing"),
    ([workdir], "--config is missing"),
    ([workdir, "--mode=nap"], "train|eval"),
    (["--wokdir=w"], "wokdir"),
    ([f"--config={config}", workdir, "stray"], "stray"),
  ]
  commands = [["--help"], *(arguments for arguments, _ in mistakes)]
  done = subprocess.run(
    [sys.executable, "-c", FLAGS_PROGRAM, json.dumps(commands)],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr
  (code, out, err), *answers = json.loads(done.stdout)
  assert code == 0
  assert "--workdir" in out + err
  for (arguments, words), (code, _, err) in zip(mistakes, answers, strict=True):
    assert code == 2, (arguments, err)
    assert words in err, (arguments, err)
    assert err.count("\n") == 1, (arguments, err)


def test_importing_the_package_imports_nothing_else():
  program = "import sys, shapegan_jax; print(shapegan_jax.__version__, 'jax' in sys.modules, 'numpy' in sys.modules)"
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
  assert done.stdout.split()[1:] == ["False", "False"], done.stderr
