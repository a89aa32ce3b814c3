"""Every form of a checkpoint gives one model, in our names and orientations; what does not fit is named."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_writer import Call, Global, average, module, siren_tensors, state_dict, write

from shapegan_jax.convert import graf, layouts, pigan_family
from shapegan_jax.convert.pigan_family import read_generator
from shapegan_jax.errors import UserError
from shapegan_jax.networks.mapping import MappingNetwork
from shapegan_jax.networks.siren import FilmSiren
from shapegan_jax.networks.surface_net import SurfaceNet

GOLDENS = Path(__file__).parents[1] / "goldens"
FORMS = ("zip", "stream")


def flat(params):
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves(params)}


def leaves(params):
  return jax.tree_util.tree_leaves_with_path(params)


def same(found, expected):
  found, expected = flat(found), flat(expected)
  assert found.keys() == expected.keys()
  for name, leaf in expected.items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert found[name].dtype == np.float32


@pytest.fixture
def tensors(rng):
  return siren_tensors(rng)


def test_all_forms_give_one_model_and_the_averages_another(tensors, tmp_path):
  reference = read_generator(write(tmp_path / "s", state_dict(tensors)), method="pigan")
  larger = {name: np.float32(1.01) * tensor for name, tensor in tensors.items()}
  scaled = jax.tree.map(lambda x: np.float32(1.01) * x, reference.params)
  for form in FORMS:
    for value, expected, step in (
      (state_dict(tensors), reference.params, 0),
      (module(tensors, step=1234), reference.params, 1234),
      (average(list(larger.values()), updates=99), scaled, 99),
      (average(list(larger.values())).state, scaled, 7),  # the state dict of an average
      ({f"module.{name}": tensor for name, tensor in tensors.items()}, reference.params, 0),
    ):
      for method in ("pigan", "gof"):
        found = read_generator(write(tmp_path / "x", value, form=form), method=method)
        same(found.params, expected)
        assert found.sizes == reference.sizes
        assert found.step == step
    ema = write(tmp_path / "ema", average(list(larger.values()), updates=99), form=form)
    for value, step in ((state_dict(tensors), 99), (module(tensors, step=1234), 1234)):
      found = read_generator(write(tmp_path / "x", value, form=form), method="pigan", ema=ema)
      same(found.params, scaled)
      assert found.step == step


@pytest.mark.parametrize("extra", [3, 4, 7])
def test_the_tree_is_that_of_the_networks(extra, rng, tmp_path):
  tensors = siren_tensors(rng, extra=extra)
  method = "pigan" if extra == 3 else "shadegan"
  found = read_generator(write(tmp_path / "x", state_dict(tensors)), method=method)
  sizes = found.sizes
  assert (sizes.width, sizes.depth, sizes.latent_dim, sizes.hidden_dim, sizes.n_hidden) == (4, 2, 3, 5, 2)
  field = FilmSiren(4, 2, view_condition=sizes.view_condition, light_condition=sizes.light_condition)
  assert (sizes.view_condition, sizes.light_condition) == (extra != 4, extra != 3)
  mapping = MappingNetwork(out=2 * field.code_size, latent_dim=3, hidden_dim=5, n_hidden=2)
  expected = jax.eval_shape(
    lambda key: {"mapping": mapping.init_params(key)["params"], "field": field.init_params(key)["params"]},
    jax.random.key(0),
  )
  assert jax.tree.map(np.shape, found.params) == jax.tree.map(lambda x: x.shape, expected)


@pytest.mark.parametrize("name", ["pigan", "gof", "shadegan"])
def test_published_weights_are_read_as_our_parity_tests_hold_them(name, tmp_path):
  """tests/goldens has them under our names; here they go the way back and are read again."""
  with np.load(GOLDENS / f"{name}_hidden32.npz") as golden, np.load(GOLDENS / "mapping_hidden32.npz") as mapping:
    ours = {key: golden[key] for key in golden.files if key.startswith("field/")}
    ours |= {key: mapping[key] for key in mapping.files if key.startswith("mapping/")}
  extra = ours["field/color_film/kernel"].shape[0] - 32
  sizes = pigan_family.Sizes(32, 8, 256, 256, 3, 32 + extra)
  tensors = {
    slot.name: ours[slot.path].T.copy() if slot.kind == "linear" else ours[slot.path]
    for slot in pigan_family.generator_slots(sizes)
  }
  assert set(ours) == {slot.path for slot in pigan_family.generator_slots(sizes)}
  found = read_generator(write(tmp_path / "x", state_dict(tensors)), method=name)
  assert found.sizes == sizes
  assert all(np.array_equal(leaf, ours[path]) for path, leaf in flat(found.params).items())


def test_a_surface_network_is_found_and_fits(rng, tmp_path):
  tensors = siren_tensors(rng, extra=4, surface=(32, 2))
  paths = {
    "named": write(tmp_path / "s", state_dict(tensors)),
    "unnamed": write(tmp_path / "e", average(list(tensors.values()))),
  }
  found = {kind: read_generator(path, method="shadegan") for kind, path in paths.items()}
  same(found["named"].params, found["unnamed"].params)
  sizes = found["named"].sizes
  assert (sizes.surface_width, sizes.surface_resolution) == (32, 32)
  net = SurfaceNet(sizes.code_size, width=32, resolution=32)
  expected = jax.eval_shape(net.init_params, jax.random.key(0))["params"]
  assert jax.tree.map(np.shape, found["named"].params["surface"]) == jax.tree.map(lambda x: x.shape, expected)
  # What stands at the front of some early averages is dropped, here with and without the generator beside it.
  longer = write(tmp_path / "l", average([np.zeros((7,), np.float32), *tensors.values()]))
  for given in (
    read_generator(longer, method="shadegan"),
    read_generator(paths["named"], method="shadegan", ema=longer),
  ):
    same(given.params, found["named"].params)
    assert "(7,)" in given.notes[0]


def test_published_sizes_have_the_published_numbers_of_parameters():
  def count(slots):
    return sum(math.prod(slot.shape) for slot in slots)

  for inputs, expected in ((259, 1_910_788), (260, 1_911_044), (263, 1_911_812)):
    assert count(pigan_family.generator_slots(pigan_family.Sizes(256, 8, 256, 256, 3, inputs))) == expected
  assert count(pigan_family.surface_slots(4608, 256, 4)) == 5_156_816
  assert count(graf.generator_slots(graf.Sizes(256, 8, 4, 128, 128, True))) == 677_764


def naive_transposed_conv(x, weight, *, stride: int, padding: int):
  """torch's definition, x [i, h, w], weight [i, o, k, k]: every input stamps its kernel onto the output."""
  (_, h, w), (_, outputs, k, _) = x.shape, weight.shape
  y = np.zeros((outputs, (h - 1) * stride + k, (w - 1) * stride + k))
  for row in range(h):
    for column in range(w):
      stamp = np.einsum("i,iokl->okl", x[:, row, column], weight)
      y[:, row * stride : row * stride + k, column * stride : column * stride + k] += stamp
  return y[:, padding : y.shape[1] - padding, padding : y.shape[2] - padding]


@pytest.mark.parametrize(("stride", "padding", "ours"), [(1, 0, "VALID"), (2, 1, "SAME")])
def test_transposed_convolutions_are_turned(stride, padding, ours, rng):
  import flax.linen as nn

  x, weight = rng.normal(size=(3, 4, 4)), rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
  kernel = layouts.fill(layouts.transposed_conv("a", "up", 3, 2, 4), {"a.weight": weight})["up"]["kernel"]
  layer = nn.ConvTranspose(2, (4, 4), (stride, stride), ours, use_bias=False)
  found = layer.apply({"params": {"kernel": kernel}}, jnp.asarray(x.transpose(1, 2, 0)[None], jnp.float32))
  expected = naive_transposed_conv(x, weight, stride=stride, padding=padding)
  np.testing.assert_allclose(found[0].transpose(2, 0, 1), expected, atol=1e-5)


def damaged(tensors, name: str):
  """A change to the tensors, and words of the answer."""
  tensors = dict(tensors)
  head = "siren.final_layer.weight"
  if name == "missing":
    del tensors["siren.network.1.layer.bias"]
    return tensors, "lacks the tensor siren.network.1.layer.bias"
  if name == "no mapping":
    return {key: x for key, x in tensors.items() if "mapping" not in key}, "lacks the tensor siren.mapping_network"
  if name == "extra":
    return tensors | {"siren.other.weight": np.zeros(3, np.float32)}, "siren.other.weight that is not expected"
  if name == "shape":
    return tensors | {head: np.zeros((2, 4), np.float32)}, r"final_layer.weight has shape \(2, 4\) where \(1, 4\)"
  if name == "codes":
    last = "siren.mapping_network.network.4.weight"
    return tensors | {last: tensors[last][:-1]}, "network.4.weight has shape"
  if name == "first":
    return tensors | {"siren.network.0.layer.weight": np.zeros((4, 3, 1), np.float32)}, "network.0.layer.weight has"
  if name == "integers":
    return tensors | {head: np.zeros((1, 4), np.int64)}, "type int64"
  if name == "nan":
    return tensors | {head: np.full((1, 4), np.nan, np.float32)}, "final_layer.weight has values that are not finite"
  if name == "overflow":
    return tensors | {head: np.full((1, 4), 1e300)}, "not finite"
  if name == "graf":
    return {"pts_linears.0.weight": np.zeros((4, 9), np.float32)}, "--method=graf"
  if name == "graf checkpoint":
    return {"generator": {}, "generator_test": {}}, "--method=graf"
  if name == "discriminator":
    return {"fromRGB.0.model.0.weight": np.zeros((4, 3, 1, 1), np.float32)}, "a discriminator"
  if name == "grid":
    return tensors | {"siren.spatial_embeddings": np.zeros((1, 2, 3, 3, 3), np.float32)}, "grid of features"
  if name == "conditions":
    first = "siren.color_layer_sine.layer.weight"
    return tensors | {first: np.zeros((4, 9), np.float32)}, "5 inputs beside the features"
  if name == "light":
    first = "siren.color_layer_sine.layer.weight"
    return tensors | {first: np.zeros((4, 8), np.float32)}, "--method=shadegan"
  return {}, "lacks the tensor siren.network.0.layer.weight"


@pytest.mark.parametrize(
  "name",
  [
    *("missing", "no mapping", "extra", "shape", "codes", "first", "integers", "nan", "overflow", "graf"),
    *("graf checkpoint", "discriminator", "grid", "conditions", "light", "nothing"),
  ],
)
def test_what_does_not_fit_is_named(name, tensors, tmp_path):
  value, words = damaged(tensors, name)
  path = write(tmp_path / "x", state_dict(value))
  with pytest.raises(UserError, match=words) as info:
    read_generator(path, method="pigan")
  assert str(info.value).startswith(f"{path}: ")
  assert str(info.value).isprintable()


def test_the_wrong_method_or_average_is_named(rng, tensors, tmp_path):
  path = write(tmp_path / "x", state_dict(tensors))
  with pytest.raises(UserError, match="--method=pigan or gof"):
    read_generator(path, method="shadegan")
  values = list(tensors.values())
  for shadow, words in (
    (values[:-1], r"averages 15 tensors where --input has 16"),
    ([np.zeros(7, np.float32), *values], "averages 17 tensors"),
    ([*values[:1], values[0], *values[2:]], "has shape"),
    ([*values[:-1], np.full_like(values[-1], np.inf)], "not finite"),
    ([*values[:-1], 3], "not a list of tensors"),
  ):
    ema = write(tmp_path / "ema", average(shadow))
    with pytest.raises(UserError, match=words) as info:
      read_generator(path, method="pigan", ema=ema)
    assert str(info.value).startswith(f"{ema}: ")
    with pytest.raises(UserError):
      read_generator(ema, method="pigan")
  with pytest.raises(UserError, match="holds no average"):
    read_generator(path, method="pigan", ema=path)


def test_a_whole_module_tells_its_box(tensors, tmp_path):
  for scale, expected in ((8.25, 8.25), (None, 1.0)):
    path = write(tmp_path / "x", module(tensors, warp_scale=scale))
    assert read_generator(path, method="pigan").warp_scale == expected
  for scale in (float("nan"), 0.0, "8"):
    with pytest.raises(UserError):
      read_generator(write(tmp_path / "x", module(tensors, warp_scale=scale)), method="pigan")


def test_other_objects_are_named(tmp_path):
  for value, words in (
    (Call(Global("siren.siren", "Siren"), new=True), "an instance of siren.siren.Siren"),
    ([1, 2], "a list"),
    ({"epoch": 3}, "epoch: a int"),
    (Call(Global("torch_ema.ema", "ExponentialMovingAverage"), state={"shadow_params": 3}, new=True), "not a list"),
    (average([]), "0 averaged tensors"),
  ):
    with pytest.raises(UserError, match=words):
      read_generator(write(tmp_path / "x", value), method="gof")
