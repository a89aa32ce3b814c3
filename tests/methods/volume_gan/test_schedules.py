"""Stages and anneals against the published schedules."""

from __future__ import annotations

import math

import pytest

from configs import pigan, shadegan
from shapegan_jax.errors import UserError
from shapegan_jax.methods.catalog import build
from shapegan_jax.methods.volume_gan.settings import StageTable
from shapegan_jax.schedules import Stage, exponential_approach, piecewise, ramp, stage_at, stage_start


@pytest.fixture(scope="module")
def celeba():
  return build(shadegan.get_config("celeba").to_dict())


def test_tracked_samples_follow_the_published_formula_at_every_step(celeba):
  for step in [*range(5001, 150_000, 97), 7900, 7901, 14_589, 14_590]:
    expected = math.floor((12 - 6) * math.exp(-3e-5 * (step - 5000)) + 6 + 0.5)
    stage, anneals = celeba.plan(step)
    assert (stage.samples, stage.tracked) == (expected, True), step
    rate = 2e-5 if step < 70_000 else 1e-5 if step < 100_000 else 2e-6
    assert anneals["generator_rate"] == pytest.approx(rate * expected / 12)


@pytest.mark.parametrize(("step", "width", "samples"), [(10_000, 0.215, 11), (30_000, 0.145, 9), (100_000, 0.0704, 6)])
def test_published_windows(celeba, step, width, samples):
  stage, anneals = celeba.plan(step)
  assert anneals["window_width"] == pytest.approx(width, abs=6e-4)
  assert stage.samples == samples


def test_the_released_window_belongs_to_step_125056(celeba):
  assert celeba.plan(125_056)[1]["window_width"] == pytest.approx(0.06491, abs=1e-5)


def test_ramps_of_noise_shading_fade_and_top_k(celeba):
  assert celeba.plan(2500)[1]["density_noise"] == 0.5
  assert celeba.plan(5000)[1]["density_noise"] == 0.0
  assert celeba.plan(5000)[1]["shading_ratio"] == 0.0
  assert celeba.plan(6000)[1]["shading_ratio"] == 0.5
  assert celeba.plan(5000)[1]["fade"] == 0.5
  assert celeba.plan(30_000)[1]["fade"] == 0.0
  assert celeba.plan(35_000)[1]["fade"] == 0.5
  # The stage at 70,000 changes no resolution: nothing fades in again.
  assert celeba.plan(71_000)[1]["fade"] == 1.0
  assert not celeba.plan(71_000)[0].fading
  assert celeba.plan(101_652)[1]["topk"] > 0.6
  assert celeba.plan(101_654)[1]["topk"] == 0.6


def test_tracking_begins_after_its_start_and_only_where_enabled(celeba):
  assert not celeba.plan(5000)[0].tracked
  assert celeba.plan(5001)[0].tracked
  assert not any(stage.tracked for _, stage in build(shadegan.get_config("bfm").to_dict()).stages)


def test_stages_ascend_and_differ(celeba):
  starts = [start for start, _ in celeba.stages]
  assert starts[0] == 0
  assert starts == sorted(set(starts))


def test_pigan_carla_fades_in_each_resolution():
  method = build(pigan.get_config("carla").to_dict())
  assert [(stage.resolution, stage.batch_size) for _, stage in method.stages if not stage.fading] == [
    (64, 14),
    (128, 10),
  ]
  assert method.plan(0)[1]["topk"] == 1.0


def test_unequal_columns_and_unsorted_starts_are_the_users_error():
  with pytest.raises(UserError, match="equally long"):
    StageTable(start=(0, 10), resolution=(32,))
  with pytest.raises(UserError, match="ascend"):
    StageTable(
      start=(5,), resolution=(32,), batch_size=(1,), samples=(1,), generator_rate=(1.0,), discriminator_rate=(1.0,)
    )


def test_lookups_at_the_edges():
  a, b = Stage(8, 4), Stage(16, 2)
  stages = ((0, a), (10, b))
  assert [stage_at(stages, s) for s in (0, 9, 10, 99)] == [a, a, b, b]
  assert [stage_start(stages, s) for s in (0, 9, 10)] == [0, 0, 10]
  assert piecewise((0, 10), (1.0, 2.0), 10) == 2.0
  assert [ramp(s, 5, 7) for s in (0, 6, 9)] == [0.0, 0.5, 1.0]
  assert exponential_approach(3, start=5, rate=1.0, initial=2.0, final=1.0) == 2.0
  assert exponential_approach(6, start=5, rate=1.0, initial=2.0, final=1.0) == pytest.approx(1 + math.exp(-1))
