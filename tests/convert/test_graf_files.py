"""GRAF's checkpoints: the trees are those of our networks, and what does not fit is named."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from torch_writer import Call, Global, Raw, nerf_tensors, state_dict, write

from shapegan_jax.convert import graf
from shapegan_jax.errors import UserError
from shapegan_jax.networks.nerf import ConditionalNerf


def shapes(tree):
  return jax.tree.map(np.shape, tree)


def draw(rng, shapes):
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("view", [True, False])
def test_the_average_of_a_checkpoint_is_read_and_fits(view, rng, tmp_path):
  trained, averaged = nerf_tensors(rng, view=view), nerf_tensors(rng, view=view)
  # As numpy's scalars are pickled, which such checkpoints keep their scores in.
  encoded = Call(Global("_codecs", "encode"), ("\x00", "latin1"))
  kind = Call(Global("numpy", "dtype"), ("f8", False, True), state=(3, "<", None))
  score = Call(Global("numpy.core.multiarray", "scalar"), (kind, encoded))
  checkpoint = {
    "generator": state_dict(trained),
    "generator_test": state_dict({f"module.{name}": tensor for name, tensor in averaged.items()}),
    "discriminator": state_dict({"main.0.weight_orig": np.zeros((1, 3, 4, 4), np.float32)}),
    "g_optimizer": {"state": {0: {"step": 3, "square_avg": np.zeros(2, np.float32)}}, "param_groups": [{"lr": 5e-4}]},
    "it": 4321,
    "fid_best": score,
  }
  for form in ("zip", "stream"):
    found = graf.read_generator(write(tmp_path / "x", checkpoint, form=form))
    assert found.step == 4321
    assert found.sizes == graf.Sizes(8, 4, 1, 5, 5, view)
    np.testing.assert_array_equal(
      found.params["field"]["trunk_2"]["kernel"], averaged["pts_linears.2.weight"].T, err_msg="the average"
    )
    net = ConditionalNerf(8, 4, 1, shape_dim=5, appearance_dim=5, view_condition=view)
    assert shapes(found.params["field"]) == shapes(jax.eval_shape(net.init_params, jax.random.key(0))["params"])
  del checkpoint["generator_test"]
  found = graf.read_generator(write(tmp_path / "x", checkpoint))
  assert "no average" in found.notes[0]
  np.testing.assert_array_equal(found.params["field"]["trunk_0"]["bias"], trained["pts_linears.0.bias"])
  alone = graf.read_generator(write(tmp_path / "x", state_dict(trained)))
  assert shapes(alone.params) == shapes(found.params)


def test_what_is_no_field_of_graf_is_named(rng, tmp_path):
  tensors = nerf_tensors(rng)
  wide = {"pts_linears.3.weight": np.zeros((8, 76), np.float32)}
  for value, words in (
    ({"siren.network.0.layer.weight": np.zeros((4, 3), np.float32)}, "--method=pigan, gof or shadegan"),
    ({"generator": 3}, "a int"),
    ({}, "lacks the tensor pts_linears.0.weight"),
    ({name: x for name, x in tensors.items() if name != "rgb_linear.bias"}, "lacks the tensor rgb_linear.bias"),
    (tensors | wide, "do not have the inputs"),
    (tensors | {"pts_linears.0.weight": np.zeros(8, np.float32)}, "has shape"),
    (tensors | {"alpha_linear.bias": np.full(1, np.inf, np.float32)}, "not finite"),
    (Raw(b"N"), "a NoneType"),
  ):
    path = write(tmp_path / "x", value)
    with pytest.raises(UserError, match=words) as info:
      graf.read_generator(path)
    assert str(info.value).startswith(f"{path}: ")
