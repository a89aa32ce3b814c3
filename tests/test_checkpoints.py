"""What is saved is what is restored, to the bit; what cannot be is said in one line; and a workdir keeps its config."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import ToyMethod, toy_config

import shapegan_jax
from shapegan_jax import checkpoints, parallel, state
from shapegan_jax.errors import UserError
from shapegan_jax.model import Model, load
from shapegan_jax.types import Codes

STEP = jax.jit(lambda x: 1.5 * x + 1.0, donate_argnums=0)


def abstract_of(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def test_a_save_holds_the_values_of_its_moment(tmp_path):
  """The state is donated to later steps while the checkpoint is still being written."""
  tree = {"a": jnp.arange(500_000, dtype=jnp.float32), "step": jnp.int32(3)}
  abstract, expected = abstract_of(tree), np.array(tree["a"])
  with checkpoints.Checkpoints(tmp_path, keep=2) as saved:
    saved.save(3, tree)
    moving = tree["a"]
    for _ in range(50):
      moving = STEP(moving)
    saved.wait()
    restored = saved.restore(abstract)
  np.testing.assert_array_equal(restored["a"], expected)
  assert int(restored["step"]) == 3


def test_the_newest_are_kept_and_restored_onto_any_devices(tmp_path):
  two, one = jax.devices(), jax.devices()[:1]
  mesh = jax.make_mesh((2,), ("data",), devices=two, axis_types=(jax.sharding.AxisType.Auto,))
  with checkpoints.Checkpoints(tmp_path, keep=2, asynchronous=False) as saved:
    assert saved.latest_step() is None
    for step in (1, 2, 3):
      saved.save(step, jax.device_put({"a": jnp.full(4, step)}, parallel.replicated(mesh)))
    saved.save(3, {"a": jnp.zeros(4)})  # there already: not touched
    assert saved.latest_step() == 3
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 3]
  on_one = jax.sharding.SingleDeviceSharding(one[0])
  with checkpoints.Checkpoints(tmp_path, read_only=True) as saved:
    restored = saved.restore({"a": jax.ShapeDtypeStruct((4,), jnp.int32, sharding=on_one)})
  np.testing.assert_array_equal(restored["a"], [3, 3, 3, 3])


def test_a_damaged_checkpoint_is_named_with_its_remedy(tmp_path):
  tree = {"a": jnp.arange(4.0)}
  with checkpoints.Checkpoints(tmp_path, asynchronous=False) as saved:
    saved.save(5, tree)
  for part in (tmp_path / "checkpoints" / "5").rglob("*"):
    if part.is_file() and part.parent.name == "d":
      part.write_bytes(b"half")
  with (
    checkpoints.Checkpoints(tmp_path, read_only=True) as saved,
    pytest.raises(UserError, match="move it away") as info,
  ):
    saved.restore(abstract_of(tree))
  assert str(tmp_path / "checkpoints" / "5") in str(info.value)
  assert "\n" not in str(info.value)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
  with checkpoints.Checkpoints(tmp_path, asynchronous=False) as saved:
    saved.save(5, {"a": jnp.arange(4.0)})
  half = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
  half.mkdir()
  (half / "default").write_text("")
  with checkpoints.Checkpoints(tmp_path, read_only=True) as saved:
    assert saved.latest_step() == 5


def test_nothing_trained_yet_is_a_clear_error(tmp_path):
  with checkpoints.Checkpoints(tmp_path, read_only=True) as saved, pytest.raises(UserError, match="no checkpoint"):
    saved.restore({})
  assert not list(tmp_path.iterdir())  # reading creates nothing
  for path in (tmp_path / "nowhere", tmp_path):
    with pytest.raises(UserError, match=str(path)):
      load(path)


def test_config_differences_names_every_setting_but_the_free_ones():
  saved = json.loads(json.dumps(toy_config(10, field={"width": 64, "bands": (1, 2)}, lights={"mean": [0.1]})))
  assert checkpoints.config_differences(saved, saved) == []
  free = toy_config(20, log_every=7, field={"width": 64, "bands": (1, 2)}, lights={"mean": [0.1 * (1 + 1e-9)]})
  assert checkpoints.config_differences(saved, free) == []
  other = toy_config(10, field={"width": 32, "bands": (1, 3), "gain": True}, lights={"mean": [0.1]}, seed=4)
  assert checkpoints.config_differences(saved, other) == [
    "field.bands.1: 2 -> 3",
    "field.gain: (not set) -> True",
    "field.width: 64 -> 32",
    "seed: 3 -> 4",
  ]


def test_a_workdir_is_only_guarded_once_it_holds_a_checkpoint(tmp_path):
  checkpoints.claim_workdir(tmp_path, toy_config(10))
  checkpoints.claim_workdir(tmp_path, toy_config(10, seed=4))  # the first try failed before it saved: correct and go on
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  with pytest.raises(UserError, match="seed: 4 -> 5"):
    checkpoints.claim_workdir(tmp_path, toy_config(10, seed=5))
  assert checkpoints.read_config(tmp_path)["seed"] == 4
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match="not valid JSON"):
    checkpoints.read_config(tmp_path)


def test_export_and_import_are_inverse(tmp_path, rng):
  params = {"mapping": {"w": rng.normal(size=(3, 4)).astype(np.float32)}, "field": {"l0": {"b": np.arange(2)}}}
  checkpoints.export_safetensors(tmp_path / "m.safetensors", params, {"config": {"a": [1, 2]}, "step": 7})
  restored, metadata = checkpoints.import_safetensors(tmp_path / "m.safetensors")
  assert metadata == {"config": {"a": [1, 2]}, "step": 7, "format": 1}
  jax.tree.map(np.testing.assert_array_equal, restored, params)
  (tmp_path / "bad.safetensors").write_bytes(b"no such thing")
  with pytest.raises(UserError, match="cannot read"):
    checkpoints.import_safetensors(tmp_path / "bad.safetensors")


def test_files_of_another_format_are_read_in_todays_names_or_refused(tmp_path):
  path = tmp_path / "m.safetensors"
  checkpoints.export_safetensors(path, {"w": np.zeros(3)}, {"format": 0})
  assert checkpoints.import_safetensors(path)[1] == {"format": 0}
  checkpoints.export_safetensors(path, {"w": np.zeros(3)}, {"format": 2})
  with pytest.raises(UserError, match="written by a newer version"):
    checkpoints.import_safetensors(path)
  checkpoints.claim_workdir(tmp_path / "run", {"method": "pigan", "discriminator": {}})
  assert json.loads((tmp_path / "run" / "config.json").read_text())["format"] == 1
  (tmp_path / "run" / "config.json").write_text(json.dumps({"method": "pigan", "critic": {"kind": "strided"}}))
  assert checkpoints.read_config(tmp_path / "run") == {"method": "pigan", "discriminator": {"kind": "strided"}}


def test_a_replaced_method_is_the_one_that_draws(key):
  """The compiled functions belong to the method: `dataclasses.replace` means what it says."""
  model = Model(ToyMethod(), ToyMethod().params_of(ToyMethod().init(key)), toy_config(3))
  scene = model.sample_scene(2)
  before = model.render(scene.latents, scene.cameras, resolution=4)

  class Other(ToyMethod):
    def render(self, params, scene, *, resolution, truncation=1.0, key=None):
      rendering = super().render(params, scene, resolution=resolution)
      return dataclasses.replace(rendering, rgb=1 - rendering.rgb)

    def codes(self, params, latents, *, truncation=1.0):
      return Codes((-latents,))

  other = dataclasses.replace(model, method=Other())
  np.testing.assert_allclose(other.render(scene.latents, scene.cameras, resolution=4).rgb, 1 - before.rgb, atol=1e-6)
  np.testing.assert_array_equal(other.codes(scene.latents).values[0], -model.codes(scene.latents).values[0])
  np.testing.assert_array_equal(model.render(scene.latents, scene.cameras, resolution=4).rgb, before.rgb)


def test_a_model_is_the_same_from_its_exported_file(tmp_path, key, monkeypatch):
  method = ToyMethod()
  monkeypatch.setattr("shapegan_jax.model.build", lambda config: method)
  model = Model(method, method.params_of(method.init(key)), toy_config(3), step=3)
  model.save(tmp_path / "toy.safetensors")
  again = shapegan_jax.load(tmp_path / "toy.safetensors")
  assert again.step == 3
  np.testing.assert_array_equal(again.render(resolution=8).rgb, model.render(resolution=8).rgb)
  smaller = dataclasses.replace(model, params={"offset": jnp.zeros(2), "radius": jnp.float32(0.05)})
  smaller.save(tmp_path / "odd.safetensors")
  with pytest.raises(UserError, match="offset"):
    load(tmp_path / "odd.safetensors")


def test_render_wants_equally_many_of_each(key):
  method = ToyMethod()
  model = Model(method, method.params_of(method.init(key)), toy_config(3))
  assert model.render(cameras=model.sample_cameras(3), resolution=4).rgb.shape == (3, 4, 4, 3)
  assert model.render().rgb.shape == (1, 8, 8, 3)  # the last stage's resolution
  with pytest.raises(UserError, match=r"\[2, 3\]"):
    model.render(model.sample_latents(2), model.sample_cameras(3))


def test_ema_follows_the_definition_and_forgets_the_start():
  ema, values, decay = {"p": jnp.float32(100.0)}, [3.0, -1.0, 4.0, 1.0, 5.0], 0.9
  reference = 100.0
  for n, value in enumerate(values, start=1):
    d = min(decay, (1 + n) / (10 + n))
    reference = d * reference + (1 - d) * value
    ema = state.ema_update(ema, {"p": jnp.float32(value)}, decay, jnp.int32(n))
  np.testing.assert_allclose(ema["p"], reference, rtol=1e-6)
  late = state.ema_update({"p": jnp.float32(1.0)}, {"p": jnp.float32(0.0)}, decay, jnp.int32(10**6))
  np.testing.assert_allclose(late["p"], decay, rtol=1e-6)


def test_finiteness_is_seen_in_any_float_leaf_and_named():
  tree = {"a": {"w": jnp.ones(3)}, "n": jnp.int32(2**31 - 1), "b": jnp.zeros((2, 2))}
  assert bool(state.all_finite(tree))
  assert state.nonfinite_names(tree) == []
  for bad in (jnp.nan, jnp.inf, -jnp.inf):
    broken = {**tree, "a": {"w": jnp.ones(3).at[1].set(bad)}}
    assert not bool(state.all_finite(broken))
    assert state.nonfinite_names(broken) == ["a/w"]
  assert bool(state.all_finite({"n": jnp.int32(1)}))
  assert state.parameter_count(tree) == 3 + 1 + 4


def test_a_file_that_cannot_be_written_is_named_and_nothing_stays(tmp_path):
  (tmp_path / "model.safetensors").mkdir()
  with pytest.raises(UserError, match=r"model\.safetensors: cannot be written"):
    checkpoints.export_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(3, np.float32)}, {})
  assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
