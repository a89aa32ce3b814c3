"""The settings of GAN2Shape's authors, and the sections shared by all presets of `configs/gan2shape.py`.

Sources: "g2s" are the authors' released configs (commit 97dddd9); values that they give per GPU are multiplied by the
number of GPUs, and a comment shows the product. Input images are samples of the generator (theirs: real images with
latents found by inversion); masks are ellipses (theirs: from a segmentation network); view priors are ours (theirs:
files estimated with Unsup3D).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, stylegan2


def stages(**changes) -> ConfigDict:
  """The table of stages; pairs are the steps of the first round and of every later one."""
  return ConfigDict({"prior": 1000, "pose_warmup": (0, 0), **changes})  # g2s: 1,000 for the ellipsoid; warm-up: ours


def run_length(config: ConfigDict) -> int:
  """Total steps of all stages."""
  table, instances = config.stages, config.instances
  steps_per_pass = 1 if instances.instance_specific else instances.count // table.images_per_step
  pairs = (table.albedo, table.pose_warmup, table.encoder, table.joint)
  trained = [steps[0] + (len(table.flip_joint) - 1) * steps[1] for steps in pairs]
  return table.prior + sum(trained) + len(table.flip_joint) * steps_per_pass * table.pool // table.samples


def network(size: ConfigDict) -> ConfigDict:
  """The sections of a StyleGAN2's config that give its size."""
  return ConfigDict({name: size[name] for name in ("mapping", "synthesis", "discriminator")})


def generator(model: str, *, resolution: int, multiplier: int = 1) -> ConfigDict:
  """The pre-trained StyleGAN2 of a preset, with its expected size."""
  size = ConfigDict()
  stylegan2.networks(size, stylegan2.channels(resolution, multiplier=multiplier), latent=512)
  return ConfigDict({"model": model, "tail": 2, "relative": True, "crop": 1.0, "network": network(size)})


def base(resolution: int) -> ConfigDict:
  """The settings that all published runs share (g2s)."""
  config = common.loop()
  config.log_every = 50
  config.data = common.data("none")
  config.instances = ConfigDict({"count": 1, "truncation": 1.0, "instance_specific": True})
  config.networks = ConfigDict(
    {
      "model": "",  # a trained GAN2Shape to start from
      "width": max(4096 // resolution, 16),
      "bottleneck": 256,
      "encoder_width": max(4096 // resolution, 16),
      "offset_width": 32,
      "view_mean": (0.0,) * 6,  # g2s: the mean of their view prior
      "light_mean": (0.0,) * 4,  # g2s: the mean of their light prior
    }
  )
  config.relief = ConfigDict(
    {
      "fov_deg": 10.0,
      "centre": 1.0,
      "near": 0.9,
      "far": 1.1,
      "margin": 0.1,
      "angle_deg": 60.0,
      "shift": 0.1,
      "shift_depth": 0.0,
      "supersample": 2,
      "mean_depth": True,
      "nr_compat": False,  # True: displaced by half a pixel, like the released renderer
    }
  )
  config.masks = ConfigDict(
    {
      "kind": "ellipse",  # ours
      "threshold": 0.06,
      "radii": (0.7, 0.9),
      "background": None,
      "in_loss": False,
      "near": 0.91,
      "far": 1.02,
      "radius": 0.4,
      "shared": False,
      "up": 0.0,
      "down": 0.0,
      "sides": 0.0,
      "to_bottom": False,
    }
  )
  config.views = ConfigDict(
    {
      "mean": (0.0,) * 6,
      "deviation": (0.1, 0.35, 0.05, 0.1, 0.1, 0.0),  # ours: pitch, yaw, roll in 60 degrees, x, y in 0.1, z
      "covariance": (),
      "scale": 1.2,
      "estimate": False,
    }
  )
  config.lights = ConfigDict({"x": (-1.0, 1.0), "y": (-0.2, 0.8), "strength": (-0.1, 0.6), "ambient": -0.6})
  config.lights.update(mean=(), covariance=())  # ours: a Gaussian prior instead
  config.objectives = ConfigDict(
    {
      "perceptual": 0.5,
      "perceptual_net": "",  # g2s: LPIPS with "vgg16", which needs pip install -e '.[metrics]'
      "smooth": 0.01,
      "features": 1.0,
      "regular": 0.01,
      "texture": 0.0,  # this and the next five are ours
      "latent_regression": 0.0,
      "moment_matching": 0.0,
      "depth_prior": 0.0,
      "depth_scale": 0.0,
      "pose_consistency": 0.0,
    }
  )
  config.optimizers = ConfigDict({"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "weight_decay": 5e-4})
  config.optimizers.update(warmup=0.0, cooldown=0.0)  # ours
  config.preview.update(every=1000, first=0, resolution=resolution)
  config.checkpoint.every = 1000
  config.evaluation.update(every=0, final_samples=16, images=0, final_images=0, views=0, resolution=resolution)
  return config


def pretraining(config: ConfigDict, *, rounds: int, samples: int, pool: int) -> ConfigDict:
  """Joint training on 200 images with symmetry, on 8 GPUs with an image each (g2s)."""
  config.instances.update(count=200, instance_specific=False)
  config.stages = stages(
    resolution=config.preview.resolution,
    albedo=(1500, 700),
    encoder=(1500, 1000),
    joint=(1500, 1000),
    flip_albedo=(False,) + (True,) * (rounds - 1),
    flip_joint=(True,) * rounds,
    images_per_step=8,
    samples=samples,
    pool=pool,
  )
  config.num_steps = run_length(config)
  return config


def pretrained(config: ConfigDict, model: str, **columns) -> ConfigDict:
  """An image, or four that share networks, from jointly pre-trained networks."""
  config.networks.model = model
  config.stages = stages(resolution=config.preview.resolution, prior=0, samples=16, pool=1600, **columns)
  config.num_steps = run_length(config)
  return config


def untrained(config: ConfigDict) -> ConfigDict:
  """Cars and churches: four GPUs work on one image, without symmetry (g2s)."""
  config.masks.update(in_loss=True, down=1 / 6)
  config.views.scale = 1.0
  config.stages = stages(
    resolution=128,
    albedo=(700, 200),
    encoder=(700, 500),
    joint=(600, 400),
    flip_albedo=(False,) * 4,
    flip_joint=(False,) * 4,
    images_per_step=1,
    samples=32,  # 8 x 4 GPUs
    pool=3200,  # 800 x 4 GPUs
  )
  config.num_steps = run_length(config)
  return config


def synface_settings() -> ConfigDict:
  """BFM faces. The authors crop the files to 170 pixels: a generator of uncropped images needs gan.crop (g2s)."""
  config = base(64)
  config.gan = generator("runs/stylegan2_bfm", resolution=128)
  config.gan.tail = 8
  config.masks.up = 1 / 6
  config.lights.update(x=(-0.9, 0.9), y=(-0.3, 0.8), strength=(-0.1, 0.7), ambient=-0.4)
  return config


def synface_pretrain() -> ConfigDict:
  """200 BFM faces (g2s: synface_pretrain)."""
  return pretraining(synface_settings(), rounds=8, samples=12, pool=480)  # 1,000 batches on 8 GPUs, of 200


def synface() -> ConfigDict:
  """Four BFM faces at a time (g2s: synface)."""
  config = synface_settings()
  config.instances.update(count=4, instance_specific=False)
  steps = {"albedo": (500, 500), "encoder": (500, 500), "joint": (200, 200)}
  flips = {"flip_albedo": (False,), "flip_joint": (True,)}
  return pretrained(config, "runs/gan2shape_synface", **steps, **flips, images_per_step=4)


def celeba_settings() -> ConfigDict:
  """CelebA."""
  config = base(128)
  config.gan = generator("runs/stylegan2_celeba", resolution=128)
  config.masks.update(sides=-1 / 12, to_bottom=True)
  return config


def celeba_pretrain() -> ConfigDict:
  """200 CelebA faces (g2s: celeba_pretrain)."""
  return pretraining(celeba_settings(), rounds=4, samples=8, pool=256)  # 800 batches on 8 GPUs, of 200


def celeba() -> ConfigDict:
  """A CelebA face (g2s: celeba)."""
  return pretrained(celeba_settings(), "runs/gan2shape_celeba", **face_rounds(), images_per_step=1)


def face_rounds() -> dict[str, tuple]:
  """Rounds of CelebA and cats, with symmetry in the first only (g2s)."""
  steps = {"albedo": (600, 200), "encoder": (600, 500), "joint": (400, 300)}
  return {**steps, "flip_albedo": (False,) * 4, "flip_joint": (True, False, False, False)}


def cat_settings() -> ConfigDict:
  """Cat faces, cropped like BFM faces."""
  config = base(128)
  config.gan = generator("runs/stylegan2_cats", resolution=256)
  return config


def cat_pretrain() -> ConfigDict:
  """200 cats (g2s: cat_pretrain)."""
  return pretraining(cat_settings(), rounds=4, samples=8, pool=256)


def cat() -> ConfigDict:
  """Four cats at a time (g2s: cat)."""
  config = cat_settings()
  config.instances.update(count=4, instance_specific=False)
  return pretrained(config, "runs/gan2shape_cat", **face_rounds(), images_per_step=4)


def car() -> ConfigDict:
  """A car (g2s: car)."""
  config = base(128)
  config.gan = generator("stylegan2-car-config-f.safetensors", resolution=512, multiplier=2)
  config.gan.relative = False
  return untrained(config)


def church() -> ConfigDict:
  """A church (g2s: church)."""
  config = base(128)
  config.gan = generator("stylegan2-church-config-f.safetensors", resolution=256, multiplier=2)
  config.gan.relative = False
  config.masks.far = 1.0
  return untrained(config)
