"""A measure is one class and one line of a config: its number is then wherever numbers are."""

import json

import pytest
from toy_method import ToyMethod, ToySource, toy_config

from shapegan_jax.errors import UserError
from shapegan_jax.evaluation.evaluate import evaluate
from shapegan_jax.evaluation.measures import MEASURES, Measure
from shapegan_jax.run_settings import EvaluationConfig
from shapegan_jax.train import train


class ToyMeasure(Measure):
  """The radius of the toy's ball, and how often it was measured."""

  name = "toy"
  meanings = {"toy/radius": "half the width of a ball"}  # noqa: RUF012

  def prepare(self, settings, context):
    self.asked = []

  def __call__(self, model, source, settings, context):
    self.asked.append((model.step, settings["samples"], context.training))
    context.protocol["toy"] = {"pictures": len(source)}
    return {"toy/radius": model.params["radius"]}


@pytest.fixture
def toy(monkeypatch):
  monkeypatch.setitem(MEASURES, "toy", measure := ToyMeasure())
  return measure


def run(workdir, **settings):
  evaluation = {"every": 2, "samples": 2, "final_samples": 3, "resolution": 8, **settings}
  return train(toy_config(3, evaluation=evaluation), workdir, method=ToyMethod(), source=ToySource())


def measured(workdir, **settings):
  return evaluate({"evaluation": settings}, workdir, method=ToyMethod(), source=ToySource())


def lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_measure_of_ones_own_is_logged_stored_printed_and_explained(tmp_path, toy, capsys):
  usual = EvaluationConfig()
  lists = {"measures": (*usual.measures, "toy"), "training_measures": (*usual.training_measures, "toy")}
  state = run(tmp_path, **lists)
  assert toy.asked == [(2, 2, True), (3, 3, True)]
  logged = {line["step"]: line for line in lines(tmp_path) if "toy/radius" in line}
  assert list(logged) == [2, 3]
  assert logged[3]["toy/radius"] == float(state.ema["radius"])
  assert logged[3]["shape/convex_share"] == 1.0
  capsys.readouterr()
  result = measured(tmp_path)
  assert toy.asked == [(3, 3, False)]
  assert json.loads((tmp_path / "eval.json").read_text()) == result
  assert list(result) == [
    "step",
    "samples",
    "shape/convex_share",
    "shape/depth_deviation",
    "shape/depth_deviation_ratio",
    "shape/normal_disagreement_deg",
    "toy/radius",
    "alarms",
    "protocol",
  ]
  assert result["toy/radius"] == float(state.ema["radius"])
  assert result["protocol"] == {"shape_samples": 3, "shape_resolution": 8, "toy": {"pictures": 12}}
  assert f"  toy/radius {' ' * 29} {result['toy/radius']:9.4f}\n" in capsys.readouterr().out
  page = (tmp_path / "eval" / "report.md").read_text()
  assert f"| `toy/radius` | {result['toy/radius']:.4g} | half the width of a ball |" in page
  assert "- toy.pictures: 12" in page


def test_only_what_is_listed_is_measured(tmp_path, toy):
  run(tmp_path, training_measures=("toy",), images=4)
  assert [set(line) for line in lines(tmp_path) if "toy/radius" in line] == [{"step", "toy/radius"}] * 2
  assert not [line for line in lines(tmp_path) if "shape/convex_share" in line or "image/FD-random" in line]
  assert "toy/radius" not in measured(tmp_path, measures=["health"])
  assert [name for name in measured(tmp_path, measures=[], final_images=4) if "/" in name] == []


def test_an_unknown_measure_is_refused_before_anything_is_done(tmp_path):
  known = "no measure is called 'beauty'; the measures are health, views, images, depth"
  with pytest.raises(UserError, match=f"config.evaluation.training_measures: {known}") as caught:
    run(tmp_path / "run", training_measures=("health", "beauty"))
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match=f"config.evaluation.measures: {known}"):
    run(tmp_path / "run", measures=("beauty",))
  assert not (tmp_path / "run").exists()
  run(tmp_path / "run")
  with pytest.raises(UserError, match=f"config.evaluation.measures: {known}"):
    measured(tmp_path / "run", measures=("beauty",))
  assert not (tmp_path / "run" / "eval.json").exists()


def test_what_a_measure_lacks_is_said_before_training_begins(tmp_path):
  with pytest.raises(UserError, match="features=inception: needs the file"):
    run(tmp_path / "run", images=4, features="inception")
  assert not (tmp_path / "run").exists()


def test_every_number_that_is_reported_has_a_meaning(tmp_path):
  run(tmp_path, images=4)
  result = measured(tmp_path, final_images=4)
  known = {name for measure in MEASURES.values() for name in measure.meanings}
  assert {name for name in result if "/" in name} <= known
  assert "image/FD-random" in result
