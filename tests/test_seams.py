"""New parts need no change of the package: a toy field, loss and measure, each a class, a row in a table and a line of
config, train and report."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import ToySource

import shapegan_jax
from configs import common, pigan, stylegan2
from shapegan_jax.evaluation.evaluate import evaluate
from shapegan_jax.evaluation.measures import MEASURES, Measure
from shapegan_jax.methods.volume_gan.generators import GENERATORS
from shapegan_jax.objectives.adversarial import LOSSES
from shapegan_jax.sections import Weight
from shapegan_jax.train import train
from shapegan_jax.types import Codes, FieldSamples


@dataclasses.dataclass(frozen=True)
class EggSettings:
  """The section `field` of an egg."""

  sharpness: Weight = 100.0


@dataclasses.dataclass(frozen=True)
class EggGenerator:
  """Eggs: three half axes and a colour, linear in the latent. A field of one code, which the SIREN's has two of."""

  settings: EggSettings
  latent_dim = 4
  code_shapes = ((6,),)
  light_conditioned = False

  @classmethod
  def sections(cls):
    return {"field": {"egg": EggSettings}}

  @classmethod
  def from_sections(cls, read):
    return cls(read["field"])

  def init(self, key):
    return {"linear": 0.1 * jax.random.normal(key, (self.latent_dim, 6))}

  def codes(self, params, latents, *, truncation=1.0):
    return latents.values if isinstance(latents, Codes) else (truncation * latents @ params["linear"],)

  def field_fn(self, params, codes, light):
    axes, color = 0.08 * jnp.exp(codes[0][:3]), jax.nn.sigmoid(codes[0][3:])

    def field(points, viewdirs):
      scaled = points / jnp.broadcast_to(axes, points.shape)
      raw = self.settings.sharpness * (1 - jnp.linalg.norm(scaled, axis=-1))
      return FieldSamples(raw, jnp.broadcast_to(color, points.shape))

    return field


@dataclasses.dataclass(frozen=True)
class HingeLoss:
  """The hinge loss (Lim and Ye 2017)."""

  pairs = False

  def discriminator(self, real_logits, fake_logits):
    return jnp.mean(jax.nn.relu(1 - real_logits)) + jnp.mean(jax.nn.relu(1 + fake_logits))

  def generator(self, fake_logits, real_logits, *, top_fraction=1.0):
    return -jnp.mean(fake_logits)


@dataclasses.dataclass(frozen=True)
class Greyness(Measure):
  """How far the mean colour of pictures is from grey."""

  name = "greyness"
  meanings = {"picture/greyness": "mean distance of a picture's mean colour from grey, in [0, 1]"}  # noqa: RUF012

  def __call__(self, model, source, settings, context):
    rgb = np.asarray(model.render(model.sample_latents(2), resolution=8).rgb)
    return {"picture/greyness": float(np.abs(rgb.mean((1, 2)) - 0.5).mean())}


@pytest.fixture
def seams(monkeypatch):
  monkeypatch.setitem(GENERATORS, "egg", EggGenerator)
  monkeypatch.setitem(LOSSES, "hinge", HingeLoss())
  monkeypatch.setitem(MEASURES, "greyness", Greyness())


def small(module):
  config = common.shrink(module.get_config("smoke"))
  config.num_steps = 2
  config.evaluation.update(every=1, samples=2, training_measures=("greyness",), measures=("greyness",))
  config.objectives.loss = "hinge"
  return config


def test_a_field_a_loss_and_a_measure_of_ones_own_train_and_report(seams, tmp_path):
  config = small(pigan)
  with config.unlocked():
    config.field = {"kind": "egg"}
    del config.mapping
  workdir = tmp_path / "run"
  state = train(config.to_dict(), workdir, source=ToySource())
  assert set(state.gen_params) == {"linear"}
  fresh = EggGenerator(EggSettings()).init
  assert np.abs(state.gen_params["linear"]).max() > 0
  assert jax.tree.structure(state.gen_params) == jax.tree.structure(fresh(jax.random.key(0)))
  model = shapegan_jax.load(workdir)
  rendering = model.render(model.sample_latents(1), model.central_cameras(1), resolution=16)
  seen = np.asarray(rendering.acc[0]) > 0.5
  assert 0.2 < seen.mean() < 0.8, "an egg in the middle, nothing around it"
  result = evaluate(None, workdir, source=ToySource())
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  measured = [line["picture/greyness"] for line in lines if "picture/greyness" in line]
  assert len(measured) == 2
  np.testing.assert_allclose(result["picture/greyness"], measured[-1], rtol=1e-5)
  assert Greyness.meanings["picture/greyness"] in (workdir / "eval" / "report.md").read_text()


def test_the_hinge_is_what_both_engines_minimise(seams):
  """StyleGAN2 has an update of its own and the same losses."""
  from shapegan_jax.methods.catalog import build

  for module in (pigan, stylegan2):
    method = build(small(module).to_dict())
    assert isinstance(method.loss, HingeLoss)
    stage, anneals = method.plan(0)
    state, key = method.init(jax.random.key(0)), jax.random.key(1)
    image = np.random.default_rng(0).uniform(-1, 1, (stage.batch_size, stage.resolution, stage.resolution, 3))
    anneals = {name: jnp.float32(value) for name, value in anneals.items()}
    step = jax.jit(method.update, static_argnames="stage")
    _, metrics = step(state, {"image": jnp.asarray(image, jnp.float32)}, key, anneals, stage=stage)
    # Convex, so at least that of the mean logits; equal where no single logit crosses the hinge.
    expected = max(0, 1 - metrics["disc/real_logits"]) + max(0, 1 + metrics["disc/fake_logits"])
    np.testing.assert_allclose(metrics["disc/discriminator"], expected, rtol=1e-4)
    # The discriminator has learned meanwhile, from fakes that are scored below zero: minus their mean is above it.
    assert metrics["gen/generator"] > 0
