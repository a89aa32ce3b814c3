"""A converted model's config is the published one: that of the presets, which the package cannot import."""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs import gof, graf, pigan, shadegan
from shapegan_jax.convert import graf as graf_files
from shapegan_jax.convert import pigan_family, published
from shapegan_jax.errors import UserError
from shapegan_jax.methods.catalog import build

PRESETS = {"pigan": pigan, "gof": gof, "shadegan": shadegan}
SETS = [(method, dataset) for method, stages in published._STAGES.items() for dataset in stages]


def generator(method: str, *, view: bool = True, surface: bool = False, warp_scale: float | None = None):
  inputs = 256 + 3 * view + 4 * (method == "shadegan")
  sizes = pigan_family.Sizes(256, 8, 256, 256, 3, inputs, *((256, 4) if surface else ()))
  return pigan_family.Generator({}, sizes, warp_scale=warp_scale)


def plain(section):
  """As JSON has it, with pi to fifteen digits."""
  return json.loads(json.dumps(section), parse_float=lambda text: round(float(text), 12))


@pytest.mark.parametrize(("method", "dataset"), SETS)
def test_a_config_is_its_preset(method, dataset):
  view = method != "shadegan"
  found = published.siren_config(generator(method, view=view), method=method, dataset=dataset)
  preset = PRESETS[method].get_config(dataset).to_dict()
  for name in ("mapping", "cameras", "discriminator", "surface", "regularisers", "lights"):
    assert plain(found.get(name)) == plain(preset.get(name)), name
  assert {**found["field"], "sine": "fast"} == preset["field"]
  # Pictures: no background from the last sample, and as many samples as in training.
  differs = {"eval_samples", "eval_last_back"}
  assert {k: v for k, v in found["rendering"].items() if k not in differs} == {
    k: v for k, v in preset["rendering"].items() if k not in differs
  }
  for column in ("resolution", "batch_size", "samples", "generator_rate", "discriminator_rate"):
    assert found["stages"][column] == preset["stages"][column][-1:], column
  assert found["objectives"]["pose"] == preset["objectives"]["pose"]
  method_of_it = build(json.loads(json.dumps(found)))
  assert method_of_it.stages[-1][1].resolution == found["stages"]["resolution"][0]
  assert method_of_it.eval_samples == found["stages"]["samples"][0]


@pytest.mark.parametrize(("view", "width"), [(False, 0.06491), (True, 0.06423)])
def test_a_surface_network_renders_by_tracking(view, width):
  found = published.siren_config(generator("shadegan", view=view, surface=True), method="shadegan")
  tracking, preset = found["tracking"], shadegan.tracking(enabled=True).to_dict()
  assert tracking["width"] == (0.24, width)
  assert {**tracking, "inference": False, "width": preset["width"]} == preset
  method = build(found)
  assert method.eval_samples == 6
  assert (method.surface_net.width, method.surface_net.resolution) == (256, 128)


@pytest.mark.parametrize("dataset", ["celeba", "cats", "carla"])
@pytest.mark.parametrize("view", [True, False])
def test_grafs_config_is_its_preset(dataset, view):
  sizes = graf_files.Sizes(256, 8, 4, 128, 128, view)
  found = graf_files.nerf_config(graf_files.Generator({}, sizes), dataset=dataset)
  preset = graf.get_config(dataset).to_dict()
  preset["field"]["view_condition"] = view
  for name in ("field", "cameras", "discriminator", "rendering"):
    assert plain(found[name]) == plain(preset[name]), name
  method = build(json.loads(json.dumps(found)))
  assert method.objectives.r1 == preset["objectives"]["r1"]
  assert method.stages[-1][1].samples == 64


def test_the_set_follows_from_the_file_where_it_can():
  def set_of(method, **settings):
    return published.siren_config(generator(method, **settings), method=method)["cameras"]["fov_deg"]

  assert set_of("pigan") == set_of("gof") == 12.0
  assert set_of("pigan", warp_scale=1.0) == 30.0
  found = published.siren_config(generator("pigan", warp_scale=8.25), method="pigan")
  assert found["field"]["warp_scale"] == 8.25
  assert published.siren_config(generator("pigan"), method="pigan", dataset="carla")["field"]["warp_scale"] == 1.0
  with pytest.raises(UserError, match="no gof model"):
    published.siren_config(generator("gof"), method="gof", dataset="carla")
  assert np.isclose(found["field"]["frequency_shift"], 30.0)
