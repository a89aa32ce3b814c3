"""The instances that a command renders: seeds are independent, codes survive a file, and other files are refused."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from tiny_models import tiny

from shapegan_jax import UserError
from shapegan_jax.checkpoints import export_safetensors, import_safetensors
from shapegan_jax.tools.shared.instances import choose, from_seeds, save_codes


@pytest.fixture(scope="module", params=["shadegan", "graf"])
def model(request):
  return tiny(request.param)


def image_of(model, instances):
  return np.asarray(model.render(instances.latents, instances.cameras, instances.lights, resolution=4).rgb)


def test_a_seeds_shape_does_not_depend_on_the_other_seeds(model):
  alone, among = from_seeds(model, (5,)), from_seeds(model, (3, 5))
  np.testing.assert_array_equal(alone.latents, among[1].latents)
  assert among[-1].names == ("seed 5",)
  assert not np.allclose(among.latents[0], among.latents[1])


def test_codes_from_a_file_give_the_same_image(model, tmp_path):
  instances = from_seeds(model, (0, 1))
  cameras = model.cameras_at(np.array([0.2, -0.1], np.float32), np.array([0.1, 0.0], np.float32))
  lights = model.sample_lights(2)
  instances = dataclasses.replace(instances, latents=model.codes(instances.latents), cameras=cameras, lights=lights)
  save_codes(tmp_path / "two.safetensors", model, instances)
  read = choose(model, (7,), tmp_path / "two.safetensors")
  assert read.names == ("seed 0", "seed 1")
  np.testing.assert_array_equal(image_of(model, read), image_of(model, instances))
  of_latents = model.render(from_seeds(model, (0, 1)).latents, cameras, lights, resolution=4).rgb
  np.testing.assert_allclose(image_of(model, read), of_latents, atol=1e-6)


def test_truncation_of_codes_equals_truncation_of_latents(model):
  latents = from_seeds(model, (0,)).latents
  of_codes, of_latents = (model.codes(x, truncation=0.5) for x in (model.codes(latents), latents))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), of_codes, of_latents)


def test_other_files_are_refused_in_one_line(model, tmp_path):
  instances = from_seeds(model, (0,))
  good = tmp_path / "good.safetensors"
  save_codes(good, model, dataclasses.replace(instances, latents=model.codes(instances.latents)))
  arrays, about = import_safetensors(good)
  bad = {
    "kind": (arrays, about | {"kind": "another"}),
    "names": (arrays, about | {"names": []}),
    "missing": ({k: v for k, v in arrays.items() if k != "yaw"}, about),
    "shape": (arrays | {"codes": {"0": np.zeros((1, 3), np.float32)}}, about),
    "number": (arrays | {"yaw": np.array([np.nan], np.float32)}, about),
    "count": (arrays, about | {"names": ["a", "b"]}),
  }
  for name, (tree, metadata) in bad.items():
    export_safetensors(tmp_path / f"{name}.safetensors", tree, metadata)
  (tmp_path / "noise.safetensors").write_bytes(b"noise")
  for name in (*bad, "noise", "absent"):
    with pytest.raises(UserError) as caught:
      choose(model, (), tmp_path / f"{name}.safetensors")
    assert "\n" not in str(caught.value)
    assert f"{name}.safetensors" in str(caught.value)
    assert name != "kind" or "is not a codes file" in str(caught.value)


@pytest.mark.parametrize("seeds", [(), (-1,), (2**40,)])
def test_invalid_seeds_are_refused(model, seeds):
  with pytest.raises(UserError, match="--seeds"):
    from_seeds(model, seeds)
