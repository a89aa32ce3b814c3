"""GAN2Shape's checkpoints: the trees are those of our networks, and what does not fit is named."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from published_gan2shape import NAMES, read_networks
from torch_writer import state_dict, write

from shapegan_jax.errors import UserError
from shapegan_jax.networks.depth_net import MapNet
from shapegan_jax.networks.image_encoders import OffsetEncoder, VectorEncoder

# The published sequences of layers at 16 pixels, 4 channels wide: (outputs, inputs, size) of a convolution, channels of
# a norm, None for what has no tensors. A transposed convolution has its inputs first.
ENTRANCE = [(4, 3, 4), 4, None, (8, 4, 4), None, (5, 8, 4), None]
EXIT = [(5, 8, 4), None, (8, 8, 3), None, (8, 4, 4), 4, None, (4, 4, 3), 4, None, None]
HEAD = [(4, 4, 3), 4, None, (4, 4, 5), 4, None]
VECTOR = [(4, 3, 4), None, (8, 4, 4), None, (8, 8, 4), None]
EXPECTED = {
  "depth": MapNet(16, 4, 5, 1),
  "albedo": MapNet(16, 4, 5, 3),
  "view": VectorEncoder(6, 16, 4),
  "light": VectorEncoder(4, 16, 4),
  "offset": OffsetEncoder(7, 16, 4),
}


def sequence(rng, layers):
  tensors = {}
  for n, layer in enumerate(layers):
    if isinstance(layer, tuple):
      tensors[f"network.{n}.weight"] = (*layer, layer[-1])
    elif layer:
      tensors |= {f"network.{n}.weight": (layer,), f"network.{n}.bias": (layer,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}


def checkpoint(rng):
  """Tensors by network and name."""
  block = {"network.1.conv1.weight": (8, 4, 3, 3), "network.1.conv2.weight": (8, 8, 3, 3)}
  block |= {"network.1.conv_sc.weight": (8, 4, 1, 1), "network.1.conv_sc.bias": (8,)}
  offset = sequence(rng, [(4, 3, 4), None, None, (16, 8, 4), None, (7, 16, 1)])
  return {
    "netD": sequence(rng, [*ENTRANCE, *EXIT, *HEAD, (1, 4, 5)]),
    "netA": sequence(rng, [*ENTRANCE, *EXIT, *HEAD, (3, 4, 5), None]),
    "netV": sequence(rng, [*VECTOR, (6, 8, 1), None]),
    "netL": sequence(rng, [*VECTOR, (4, 8, 1), None]),
    "netEnc": offset | {name: rng.normal(size=shape).astype(np.float32) for name, shape in block.items()},
  }


def test_a_checkpoint_is_read_and_fits(rng, tmp_path):
  tensors = checkpoint(rng)
  named = {name: state_dict(of) for name, of in tensors.items()}
  named["netV"] = state_dict({f"module.{name}": tensor for name, tensor in tensors["netV"].items()})
  named |= {"optimizerD": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "iteration": 321}
  for form in ("zip", "stream"):
    found = read_networks(write(tmp_path / "x", named, form=form))
    assert found.modules == EXPECTED
    assert (found.step, found.resolution) == (321, 16)
    for name, module in EXPECTED.items():
      params = jax.eval_shape(module.init_params, jax.random.key(0))["params"]
      assert jax.tree.map(np.shape, found.params[name]) == jax.tree.map(np.shape, params), name
    turned = tensors["netD"]["network.11.weight"].transpose(2, 3, 0, 1)[::-1, ::-1]
    np.testing.assert_array_equal(found.params["depth"]["up_1"]["kernel"], turned)
    np.testing.assert_array_equal(
      found.params["view"]["head"]["kernel"][0, 0], tensors["netV"]["network.6.weight"][..., 0, 0].T
    )


def test_part_of_a_checkpoint_is_enough(rng, tmp_path):
  found = read_networks(write(tmp_path / "x", {"netD": state_dict(checkpoint(rng)["netD"])}))
  assert (list(found.modules), found.step) == (["depth"], 0)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_named_in_one_line(name, rng, tmp_path):
  tensors = checkpoint(rng)

  def refused(changed, words):
    with pytest.raises(UserError, match=words) as info:
      read_networks(write(tmp_path / "x", {name: state_dict(of) for name, of in (tensors | {name: changed}).items()}))
    assert "\n" not in str(info.value)
    assert f": {name}: " in str(info.value) or "sizes" in words

  own = tensors[name]
  last = max((key for key in own if own[key].ndim == 4), key=lambda key: int(key.split(".")[1]))
  refused({key: value for key, value in own.items() if key != last}, "convolutions|lacks the tensor|has shape")
  refused(own | {"network.0.weight": own["network.0.weight"][:, :2]}, "network.0.weight has shape")
  refused(own | {last: np.full_like(own[last], np.nan)}, "not finite")
  refused({}, "0 convolutions")
  if name != "netEnc":
    refused(own | {last: np.concatenate([own[last]] * 2)}, "numbers where")


def test_networks_of_two_sizes_or_of_none_are_refused(rng, tmp_path):
  tensors = checkpoint(rng)
  larger = sequence(rng, [*VECTOR[:-2], (16, 8, 4), None, (16, 16, 4), None, (6, 16, 1)])
  named = {name: state_dict(of) for name, of in (tensors | {"netV": larger}).items()}
  with pytest.raises(UserError, match="different sizes"):
    read_networks(write(tmp_path / "x", named))
  with pytest.raises(UserError, match="none of netD"):
    read_networks(write(tmp_path / "x", {"generator": named["netD"]}))
