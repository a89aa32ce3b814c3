"""GRAF's checkpoints and the discriminators: the trees are those of our networks, and what does not fit is named."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from torch_writer import Call, Global, Raw, nerf_tensors, state_dict, write

from shapegan_jax.convert import discriminators, graf
from shapegan_jax.convert.pickles import Unreadable
from shapegan_jax.errors import UserError
from shapegan_jax.networks.discriminators import ProgressiveDiscriminator, StridedDiscriminator
from shapegan_jax.networks.nerf import ConditionalNerf
from shapegan_jax.networks.patch_discriminator import PatchDiscriminator


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


def growing_shapes(channels, *, coordinates, strided, answers=259, coord_name=True):
  """Names and shapes of a published growing discriminator with these channels, largest resolution first."""
  named, conv = {}, ".conv" if coord_name else ""

  def add(name, inputs, outputs, size):
    named[f"{name}.weight"], named[f"{name}.bias"] = (outputs, inputs, size, size), (outputs,)

  for i, n in enumerate(channels):
    add(f"fromRGB.{i}.model.0", 3, n, 1)
    if i + 1 < len(channels):
      m = channels[i + 1]
      add(f"layers.{i}.network.0{conv}", n + coordinates, m, 3)
      add(f"layers.{i}.network.2{conv}", m + coordinates, m, 3)
      if strided or n != m:
        add(f"layers.{i}.proj", n, m, 1)
  add("final_layer", channels[-1], answers, 2)
  return named


def test_growing_discriminators_fit(rng):
  net = ProgressiveDiscriminator(max_resolution=32, latent_dim=256, pose=True, width_multiplier=0.01)
  channels = [net._channels(size) for size in (32, 16, 8, 4, 2)]
  assert len(set(channels)) > 1, "some blocks project and some do not"
  tensors = draw(rng, growing_shapes(channels, coordinates=2, strided=False))
  unused = {"module.encode_layer.weight": np.zeros((9, 4, 2, 2), np.float32)}
  found = discriminators.progressive_discriminator({f"module.{k}": x for k, x in tensors.items()} | unused)
  assert shapes(found) == shapes(jax.eval_shape(net.init_params, jax.random.key(0))["params"])
  kernel = found["blocks_32"]["conv_0"]["kernel"]
  assert kernel[2, 0, 1, 0] == tensors["layers.0.network.0.conv.weight"][0, 1, 2, 0]
  for coord in (True, False):
    plain = dict(coordinates=2 * coord, strided=True, answers=1, coord_name=coord)
    strided = StridedDiscriminator(max_resolution=32, width_multiplier=0.01, coord=coord)
    found = discriminators.strided_discriminator(draw(rng, growing_shapes(channels, **plain)))
    assert shapes(found) == shapes(jax.eval_shape(strided.init_params, jax.random.key(0))["params"])
  for wrong in ({}, {"a": np.zeros(3, np.float32)}, {k: x for k, x in tensors.items() if "proj" not in k}):
    with pytest.raises(Unreadable):
      discriminators.progressive_discriminator(wrong)


def test_the_patch_discriminator_fits_and_keeps_its_singular_vectors(rng):
  net = PatchDiscriminator(resolution=16, width_multiplier=0.02)
  expected = jax.eval_shape(net.init_params, jax.random.key(0))
  kernels = [layer["kernel"].shape for _, layer in sorted(expected["params"].items())]
  named = {}
  for index, (size, _, inputs, outputs) in zip((0, 3, 6), kernels, strict=True):
    named[f"main.{index}.weight_orig"] = (outputs, inputs, size, size)
    named |= {f"main.{index}.weight_u": (outputs,), f"main.{index}.weight_v": (inputs * size * size,)}
  tensors = draw(rng, named)
  found = discriminators.patch_discriminator(tensors)
  assert shapes(found) == shapes(dict(expected))
  # u^T W v is the same number in torch's order of axes and in ours.
  weight, u, v = (tensors[f"main.3.weight_{part}"] for part in ("orig", "u", "v"))
  ours = found["spectral"]["layers_1"]
  kernel = found["params"]["layers_1"]["kernel"]
  np.testing.assert_allclose(
    np.einsum("hwio,o,hwi->", kernel, ours["u"], ours["v"]), u @ weight.reshape(len(u), -1) @ v, rtol=1e-4
  )
  with pytest.raises(Unreadable):
    discriminators.patch_discriminator({"a": np.zeros(3, np.float32)})
