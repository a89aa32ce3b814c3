"""GAN2Shape (Pan et al., ICLR 2021): 3D shape from the knowledge in a 2D GAN.

  python -m shapegan_jax.main --config=configs/gan2shape.py --workdir=runs/gan2shape

The result of `heads` ships as `gan2shape-heads` (25 min on one core of a shared Xeon, beside another run): its depth
for unseen heads is closer to the ground truth than the ellipsoid's, and views are ordered correctly, but the relief
stays smooth and almost the same for all heads, without facial features.

Presets: heads (default), smoke; synface_pretrain, celeba_pretrain, cat_pretrain (joint training on 200 images);
synface, cat (four images that share networks), celeba, car, church (instance-specific networks). The last eight have
the authors' settings (`configs/gan2shape_published.py`). We have run none of them, so no result is claimed. They differ
from the authors' runs in images, masks and view priors, and LPIPS is off until its weights are installed
(`objectives.perceptual_net`). `shapegan lift` runs the same steps on an image of your own.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, shadegan, stylegan2
from configs import gan2shape_published as published


def get_config(preset: str = "heads") -> ConfigDict:
  """`preset` is what follows the colon in --config=configs/gan2shape.py:PRESET."""
  presets = {
    "heads": heads,
    "smoke": smoke,
    "synface_pretrain": published.synface_pretrain,
    "synface": published.synface,
    "celeba_pretrain": published.celeba_pretrain,
    "celeba": published.celeba,
    "cat_pretrain": published.cat_pretrain,
    "cat": published.cat,
    "car": published.car,
    "church": published.church,
  }
  config = common.choose(preset, presets)
  config.method = "gan2shape"
  return config


def heads() -> ConfigDict:
  """Images of a generator of the embedded heads, on two CPU cores. Values set here are ours."""
  config = published.base(64)
  config.log_every = 10
  config.data = common.data("heads")  # ground-truth depth for the evaluation
  size = stylegan2.heads()
  config.gan = ConfigDict(
    {
      "model": "stylegan2-heads",
      "tail": -1,
      "relative": True,
      "crop": 1.0,
      "refine": 50,
      "directions": True,
      "network": published.network(size),
    }
  )
  config.instances.update(count=64, candidates=6, instance_specific=False)
  config.networks.update(width=20, bottleneck=128, encoder_width=20, offset_width=20)
  # The data set's camera. Its heads are centred: a shift predicted from a taller head would be an error.
  config.relief.update(fov_deg=12.0, near=0.88, far=1.12, supersample=1, shift=0.0)
  config.masks.update(kind="background", background=1.0, in_loss=True, shared=True, near=0.91, far=1.01)
  config.masks.update(up=0.1, down=0.1, sides=0.1)
  # The data set's pose and light priors.
  config.views.update(deviation=(0.148, 0.286, 0.0, 0.0, 0.0, 0.0), scale=1.0)
  lights = shadegan.heads().lights
  config.lights.update(mean=lights.mean, covariance=lights.covariance)
  config.objectives.update(texture=1.0, latent_regression=1.0, moment_matching=2.0)
  config.objectives.update(depth_prior=1.0, depth_scale=10.0, pose_consistency=1.0)
  config.optimizers.update(learning_rate=5e-4, warmup=0.05, cooldown=0.3)
  config.stages = published.stages(
    resolution=64,
    prior=300,
    albedo=(0, 0),  # the input images are the texture
    pose_warmup=(500, 0),
    encoder=(400, 0),
    joint=(1000, 0),
    flip_albedo=(False,),
    flip_joint=(True,),
    images_per_step=4,
    samples=4,
    pool=16,
  )
  config.num_steps = published.run_length(config)
  config.preview.update(every=500, first=300)
  config.checkpoint.every = 200
  config.evaluation.update(final_samples=64)
  return config


def smoke() -> ConfigDict:
  """A first try in 90 s, with an untrained generator of small images: the shapes have no meaning."""
  config = heads()
  config.data = common.data("none")
  config.gan.update(model="", refine=4)
  size = ConfigDict()
  stylegan2.networks(size, (16, 16, 16, 16), latent=32)
  config.gan.network = published.network(size)
  config.instances.count = 4
  config.networks.update(width=8, bottleneck=32, encoder_width=8, offset_width=8)
  config.masks.update(kind="ellipse", background=None, in_loss=False)
  config.stages.update(
    resolution=32, prior=10, albedo=(6, 6), pose_warmup=(6, 6), encoder=(6, 6), joint=(6, 6), samples=2, pool=4
  )
  config.stages.update(flip_albedo=(False,), flip_joint=(True,), images_per_step=2)
  config.num_steps = published.run_length(config)
  config.log_every = 2
  config.preview.update(first=0, every=config.num_steps, count=4, resolution=32)
  config.checkpoint.every = 10
  config.evaluation.update(samples=4, final_samples=4, resolution=32)
  return config
