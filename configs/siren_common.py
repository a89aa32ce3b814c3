"""Config sections shared by pi-GAN, ShadeGAN and GOF, with the published values.

Sources: "pigan", "shade" are the authors' released curricula (commits 0800af7 and 154e897). Batch sizes there are per
GPU; ours are global, and a comment shows the product. Angles are in radians, relative to the frontal pose.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def published() -> ConfigDict:
  """The common settings of the published runs: a FiLM-SIREN with 8 layers of width 256, and its training."""
  config = common.loop()
  config.log_every = 100
  config.preview.update(every=1000, first=200, count=8, resolution=64)
  config.checkpoint.every = 2000
  config.evaluation.every = 5000
  config.mapping = ConfigDict({"latent_dim": 256, "hidden_dim": 256, "n_hidden": 3})  # pigan
  config.field = ConfigDict(
    {
      "width": 256,
      "depth": 8,
      "view_condition": True,
      "light_condition": False,
      "frequency_scale": 15.0,  # pigan: 15 f + 30
      "frequency_shift": 30.0,
      "warp_scale": 2 / 0.24,  # pigan: a box of side 0.24 becomes [-1, 1]
      "init_constant": 25.0,  # pigan: weights U(+-sqrt(6 / fan_in) / 25)
      "sine": "fast",
      "compute_dtype": "float32",  # "bfloat16" rounds only the operands of the wide matrix products (accelerators)
      "sphere_start": {},  # off
    }
  )
  config.rendering = ConfigDict(
    {
      "fine": True,  # as many importance samples as coarse ones
      "clamp": "relu",
      "last": "published",  # the last interval is 1e10 long; the published clipping limits its gradient
      "last_back": False,
      "eval_last_back": False,
      "background": 0.0,
      "normalise_distance": True,
      "density_noise_steps": 5000,  # standard deviation 1 -> 0
      "eval_samples": 24,  # the authors double the samples for evaluation
      "chunk_points": 0,  # chosen automatically for the device
    }
  )
  config.objectives = ConfigDict(
    {
      "r1": 1.0,
      "pose": 15.0,
      "latent": 0.0,
      "topk_interval": 2000,
      "topk_share": 0.6,
      "shared_fakes": False,
    }
  )
  config.optimizers = ConfigDict({"b1": 0.0, "b2": 0.9, "clip": 1.0, "discriminator_clip": 1.0})
  config.averages = ConfigDict({"decay": 0.999, "slow_decay": 0.9999})
  return config


def faces() -> ConfigDict:
  """The pose distribution and volume of CelebA and BFM (pigan, shade)."""
  return ConfigDict(
    {
      "fov_deg": 12.0,
      "near": 0.88,
      "far": 1.12,
      "radius": 1.0,
      "prior": "gaussian",
      "yaw": (0.0, 0.3),
      "pitch": (0.0, 0.155),
    }
  )


def cats() -> ConfigDict:
  """The pose distribution and volume of Cats (pigan, shade)."""
  return ConfigDict(
    {
      "fov_deg": 12.0,
      "near": 0.8,
      "far": 1.2,
      "radius": 1.0,
      "prior": "uniform",
      "yaw": (0.0, 0.5),
      "pitch": (0.0, 0.4),
    }
  )


def discriminator(
  kind: str, *, resolution: int, latent: int = 256, pose: bool = True, coord: bool = True
) -> ConfigDict:
  """A discriminator of the published width for images of up to `resolution` pixels."""
  return ConfigDict(
    {
      "kind": kind,
      "max_resolution": resolution,
      "latent_dim": latent,
      "pose": pose,
      "width_multiplier": 1.0,
      "max_channels": 400,
      "coord": coord,
    }
  )


def stages(fade_steps: int = 10_000, fade_first: bool = True, **columns) -> ConfigDict:
  """The table of stages from its columns; `split` (the authors' batch_split) becomes `gradient_scale`."""
  split = columns.pop("split", (1,) * len(columns["start"]))
  return ConfigDict(
    {
      "topk_group": (0,) * len(split),
      **columns,
      "gradient_scale": tuple(float(s) for s in split),
      "fade_steps": fade_steps,
      "fade_first": fade_first,
    }
  )


def celeba() -> ConfigDict:
  """CelebA, aligned images: short side resized to 320, centre crop of 256 (pigan, shade), resized to 128 pixels."""
  return common.data("named", tfds_name="celeb_a", image_size=128, crop=142)  # 256 / 320 of the width of 178 pixels


def bfm() -> ConfigDict:
  """Unsup3D's synface, centre crop of 170 pixels (shade)."""
  return common.data("synface", path="data/synface", image_size=128, crop=170)


def cat_crops() -> ConfigDict:
  """GRAF's cat crops, stored at 128 pixels or more."""
  return common.data("cats", path="data/cats", image_size=128)


def heads() -> ConfigDict:
  """The embedded heads on two CPU cores: a narrow network initialised to a soft sphere. All values are ours.

  With the published initialisation a small network still renders noise after ten minutes; for measurements see the
  header of `configs/shadegan.py`.
  """
  config = common.loop()
  config.num_steps = 2000
  config.data = common.data("heads")
  config.cameras = faces()  # the data set's pose distribution (shapegan_jax/data/heads_model.py)
  config.mapping = ConfigDict({"latent_dim": 64, "hidden_dim": 128, "n_hidden": 2})
  config.field = ConfigDict(
    {
      "width": 64,
      "depth": 4,
      "view_condition": False,
      "light_condition": False,
      "frequency_scale": 5.0,
      "frequency_shift": 10.0,
      "warp_scale": 2 / 0.24,
      "init_constant": 25.0,
      "sine": "fast",
      "compute_dtype": "float32",
      "sphere_start": {"radius": 0.75, "sharpness": 250.0, "gain": 60.0},
    }
  )
  config.rendering = ConfigDict(
    {
      "fine": False,
      "clamp": "relu",
      "last": "far",
      "last_back": False,
      "eval_last_back": False,
      "background": 1.0,  # that of the data set; on black, black density in empty space would be invisible
      "normalise_distance": True,
      "density_noise_steps": 0,
      "eval_samples": 24,
      "chunk_points": 0,
    }
  )
  config.discriminator = ConfigDict(
    {
      "kind": "strided",
      "max_resolution": 64,
      "latent_dim": 0,
      "pose": True,
      "width_multiplier": 0.2,
      "max_channels": 80,
      "coord": True,
    }
  )
  config.objectives = ConfigDict(
    {
      "r1": 1.0,
      "pose": 15.0,
      "latent": 0.0,
      "topk_interval": 2000,
      "topk_share": 0.6,
      "shared_fakes": True,
    }
  )
  config.optimizers = ConfigDict({"b1": 0.0, "b2": 0.9, "clip": 1.0, "discriminator_clip": 10.0})
  config.averages = ConfigDict({"decay": 0.995, "slow_decay": 0.999})
  config.stages = stages(
    start=(0, 1650),
    resolution=(32, 64),
    batch_size=(8, 4),
    samples=(10, 12),
    generator_rate=(3e-4, 2e-4),
    discriminator_rate=(3e-4, 3e-4),
    fade_steps=200,
    fade_first=False,
  )
  return config


def smoothness() -> ConfigDict:
  """Smoothness of normals at the surface points of some rays, against waves in the shape that mimic texture (ours)."""
  return ConfigDict({"weight": 0.1, "rays": 128, "neighbour": 1e-2})


def smoke(
  config: ConfigDict, *, resolution: int = 16, generator_rate: float = 3e-4, discriminator_rate: float = 2e-4
) -> ConfigDict:
  """The config for a quick test: 256 small images, 40 steps, a narrow network; it ends within 90 s."""
  config.num_steps = 40
  config.data.update(image_size=32, num_examples=256)
  config.field.update(width=32, depth=3)
  config.discriminator.width_multiplier = 0.1
  if "max_resolution" in config.discriminator:  # the size of GRAF's discriminator is that of its patches
    config.discriminator.max_resolution = resolution
  config.stages = stages(
    start=(0,),
    resolution=(resolution,),
    batch_size=(4,),
    samples=(8,),
    generator_rate=(generator_rate,),
    discriminator_rate=(discriminator_rate,),
    fade_steps=0,
  )
  config.log_every = 5
  config.preview.update(first=20, every=40, count=4, resolution=32)
  config.checkpoint.every = 20
  config.evaluation.update(every=40, samples=8, images=8, resolution=16, final_samples=16, final_images=16, views=4)
  return config


def large(config: ConfigDict) -> ConfigDict:
  """The heads at 128 pixels and full width, for an accelerator. Values are ours; not yet run."""
  config.num_steps = 60_000
  config.data.image_size = 128
  config.log_every = 100
  config.preview.update(every=1000, first=200, resolution=128)
  config.checkpoint.every = 2000
  config.evaluation.update(every=5000, resolution=64)
  config.mapping = ConfigDict({"latent_dim": 256, "hidden_dim": 256, "n_hidden": 3})
  config.field.update(width=256, depth=8)
  config.rendering.update(fine=True, eval_samples=24)
  config.discriminator = discriminator("progressive", resolution=128, latent=0)
  config.stages = stages(
    start=(0, 15_000, 40_000),
    resolution=(32, 64, 128),
    batch_size=(32, 32, 16),
    samples=(12, 12, 12),
    generator_rate=(1e-4, 5e-5, 2e-5),
    discriminator_rate=(1e-4, 1e-4, 5e-5),
    fade_steps=3000,
  )
  config.objectives.shared_fakes = False
  config.averages = ConfigDict({"decay": 0.999, "slow_decay": 0.9999})
  return config
