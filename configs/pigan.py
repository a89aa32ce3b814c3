"""pi-GAN (Chan et al., CVPR 2021): a FiLM-SIREN radiance field with a progressively growing discriminator.

  python -m shapegan_jax.main --config=configs/pigan.py --workdir=runs/pigan_heads

Presets: heads (default), smoke, heads_large, celeba, bfm, cats, carla. `heads` has the settings of ShadeGAN's preset
without light: the baseline, in which shape and colour are entangled. Our `smoothness` keeps this out of the normals.
6,000 steps on one core of a shared Xeon (Sapphire Rapids), jax 0.10.2, seed 0, 1.3 hours: SIDE 0.754 (x 100), MAD 18.31
degrees (`benchmarks.shapes`; without smoothness 0.771 and 20.49). The published presets reproduce the authors'
settings; we have not yet run any of them to the end, so no result is claimed for them.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, siren_common


def get_config(preset: str = "heads") -> ConfigDict:
  """`preset` is what follows the colon in --config=configs/pigan.py:PRESET."""
  presets = {
    "heads": heads,
    "smoke": smoke,
    "heads_large": heads_large,
    "celeba": celeba,
    "bfm": bfm,
    "cats": cats,
    "carla": carla,
  }
  config = common.choose(preset, presets)
  config.method = "pigan"
  return config


def heads() -> ConfigDict:
  """The embedded heads on a laptop: ShadeGAN's preset without light, with smoothness of normals (ours)."""
  config = siren_common.heads()
  config.smoothness = siren_common.smoothness()
  return config


def smoke() -> ConfigDict:
  """A quick test in a minute."""
  return siren_common.smoke(heads())


def heads_large() -> ConfigDict:
  """The heads at 128 pixels and full width (not yet run)."""
  return siren_common.large(heads())


def celeba() -> ConfigDict:
  """The authors' CelebA curriculum: 64 pixels in one stage (`bfm` has the paper's 32/64/128)."""
  config = siren_common.published()
  config.num_steps = 200_000  # pigan
  config.data = siren_common.celeba()
  config.cameras = siren_common.faces()
  config.discriminator = siren_common.discriminator(
    "strided", resolution=64
  )  # pigan: coordinate convolutions, stride 2
  config.stages = siren_common.stages(
    start=(0,),
    resolution=(64,),
    batch_size=(56,),  # per GPU in the release; the authors name one RTX 8000 or two RTX 6000
    split=(2,),
    samples=(12,),
    generator_rate=(6e-5,),
    discriminator_rate=(2e-4,),
    topk_group=(28,),
  )
  config.objectives.update(r1=0.2, pose=15.0)  # pigan
  config.optimizers.update(clip=10.0, discriminator_clip=10.0)  # pigan
  config.rendering.update(eval_last_back=True, normalise_distance=False)  # pigan
  return config


def bfm() -> ConfigDict:
  """The pi-GAN baseline of ShadeGAN's authors on synface, 32/64/128 pixels (shade: BFM_piGAN, one GPU)."""
  config = siren_common.published()
  config.num_steps = 81_000
  config.data = siren_common.bfm()
  config.cameras = siren_common.faces()
  config.discriminator = siren_common.discriminator("progressive", resolution=128)
  config.stages = siren_common.stages(
    start=(0, 20_000, 40_000, 50_000),
    resolution=(32, 64, 64, 128),
    batch_size=(24, 12, 12, 4),  # x 1 GPU
    split=(1, 2, 2, 2),
    samples=(12, 12, 12, 12),
    generator_rate=(2e-5, 2e-5, 1e-5, 2e-6),
    discriminator_rate=(2e-4, 2e-4, 1e-4, 2e-5),
    topk_group=(24, 6, 6, 2),
  )
  config.optimizers.update(clip=0.3, discriminator_clip=0.3)
  return config


def cats() -> ConfigDict:
  """The authors' Cats curriculum (pigan)."""
  config = siren_common.published()
  config.num_steps = 200_000
  config.data = siren_common.cat_crops()
  config.cameras = siren_common.cats()
  config.discriminator = siren_common.discriminator("strided", resolution=64, latent=0, pose=False, coord=False)
  config.stages = siren_common.stages(
    start=(0,),
    resolution=(64,),
    batch_size=(28,),  # per GPU
    split=(4,),
    samples=(24,),
    generator_rate=(6e-5,),
    discriminator_rate=(2e-4,),
    topk_group=(7,),
  )
  config.objectives.update(r1=0.2, pose=0.0)
  config.optimizers.update(clip=10.0, discriminator_clip=10.0)
  config.rendering.update(eval_last_back=True, normalise_distance=False, eval_samples=48)
  return config


def carla() -> ConfigDict:
  """The authors' CARLA curriculum: cars from all views above the ground, on white (pigan)."""
  config = siren_common.published()
  config.num_steps = 200_000
  config.data = common.data("carla", path="data/carla", image_size=128, flip=False)
  config.cameras = ConfigDict(
    {
      "fov_deg": 30.0,
      "near": 0.7,
      "far": 1.3,
      "radius": 1.0,
      "prior": "spherical",
      "yaw": (-3.141592653589793, 3.141592653589793),
      "pitch": (0.05558, 1.5707963267948966),  # polar angles 0 to 86.8 degrees: v uniform in [0, 85/180]
    }
  )
  config.field.warp_scale = 1.0  # pigan's TALLSIREN reads world coordinates
  config.discriminator = siren_common.discriminator("progressive", resolution=128)
  config.stages = siren_common.stages(
    start=(0, 10_000, 55_000),
    resolution=(32, 64, 128),
    batch_size=(30, 14, 10),  # per GPU
    split=(1, 2, 5),
    samples=(48, 48, 48),
    generator_rate=(4e-5, 2e-5, 1e-5),
    discriminator_rate=(4e-4, 2e-4, 1e-4),
    topk_group=(30, 7, 2),
  )
  config.objectives.update(r1=10.0, pose=0.0, topk_interval=1000, topk_share=1.0)  # top-k is off
  config.rendering.update(background=1.0, normalise_distance=False, eval_samples=96)
  return config
