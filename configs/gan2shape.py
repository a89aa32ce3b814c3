"""GAN2Shape (Pan et al., ICLR 2021): the shapes that a 2D generator of pictures knows without having been told.

  python -m shapegan_jax.main --config=configs/gan2shape.py --workdir=runs/gan2shape

What `heads` ends as ships as `gan2shape-heads` (25 min of one core of a shared Xeon, beside another run): depth of new
heads is nearer to the truth than the ellipsoid's, and views come in the right order, but the relief stays smooth and
nearly the same for all, without a face's features.

Presets: heads (default), smoke; synface_pretrain, celeba_pretrain, cat_pretrain (one set of networks for 200 subjects);
synface, cat (four subjects that share networks), celeba, car, church (networks of a subject's own). The last eight have
the authors' settings (`configs/gan2shape_published.py`); none of them has been run by us, so no result is claimed. They
differ from the authors' runs in subjects, masks and view priors, and LPIPS is off until its weights are installed
(`objectives.perceptual_net`). `shapegan lift` runs the same steps on a picture of your own.
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
  """Heads that a generator of the embedded heads draws, on two CPU cores. Values set here are ours."""
  config = published.base(64)
  config.log_every = 10
  config.data = common.data("heads")  # its depth is what the shapes' is compared with
  size = stylegan2.heads()
  network = {name: size[name] for name in ("mapping", "synthesis", "discriminator")}
  config.gan = ConfigDict(
    {
      "model": "stylegan2-heads",
      "tail": -1,
      "relative": True,
      "crop": 1.0,
      "refine": 50,
      "directions": True,
      "network": ConfigDict(network),
    }
  )
  config.subjects.update(count=64, candidates=6, instance=False)
  config.networks.update(width=20, bottleneck=128, encoder_width=20, offset_width=20)
  # The set's own camera. Heads are in the middle of its pictures: a shift that is read off a taller head is an error.
  config.relief.update(fov_deg=12.0, near=0.88, far=1.12, supersample=1, shift=0.0)
  config.masks.update(kind="background", background=1.0, in_loss=True, shared=True, near=0.91, far=1.01)
  config.masks.update(up=0.1, down=0.1, sides=0.1)
  # The set's own poses and lights.
  config.views.update(deviation=(0.148, 0.286, 0.0, 0.0, 0.0, 0.0), scale=1.0)
  lights = shadegan.heads().lights
  config.lights.update(mean=lights.mean, covariance=lights.covariance)
  config.objectives.update(texture=1.0, latents=1.0, moments=2.0, anchor=1.0, height=10.0, asked=1.0)
  config.optimizers.update(learning_rate=5e-4, rise=0.05, fall=0.3)
  config.stages = published.stages(
    resolution=64,
    prior=300,
    albedo=(0, 0),  # pictures are the texture from the beginning
    reading=(500, 0),
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
  """A first try in 90 s: an untrained generator of small pictures, which knows no shapes."""
  config = heads()
  config.data = common.data("none")
  config.gan.update(model="", refine=4)
  stylegan2.networks(config.gan.network, (16, 16, 16, 16), latent=32)
  config.subjects.count = 4
  config.networks.update(width=8, bottleneck=32, encoder_width=8, offset_width=8)
  config.masks.update(kind="ellipse", background=None, in_loss=False)
  config.stages.update(
    resolution=32, prior=10, albedo=(6, 6), reading=(6, 6), encoder=(6, 6), joint=(6, 6), samples=2, pool=4
  )
  config.stages.update(flip_albedo=(False,), flip_joint=(True,), images_per_step=2)
  config.num_steps = published.run_length(config)
  config.log_every = 2
  config.preview.update(first=0, every=config.num_steps, count=4, resolution=32)
  config.checkpoint.every = 10
  config.evaluation.update(samples=4, final_samples=4, resolution=32)
  return config
