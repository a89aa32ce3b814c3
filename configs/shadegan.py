"""ShadeGAN (Pan et al., NeurIPS 2021): shapes whose shaded images look realistic under every light.

  python -m shapegan_jax.main --config=configs/shadegan.py --workdir=runs/heads

`heads`, before it had `smoothness`, on two cores of a shared Xeon (Sapphire Rapids), jax 0.10.2: data set 43 s, first
image 86 s after the command, 0.66 s per step at 32 pixels and 1.4 s at 64, 29 min in total; at the end all of 256
samples are convex (none hollow), the depth standard deviation is 0.88 times the data's, density normals are 9.9 degrees
from depth normals. The decisive settings, each tried on the same data for a few hundred steps: the sphere start with
sharpness 250 and gain 60 instead of 80 and 20 (smoother shapes, normals 8 instead of 15 degrees off at 400 to 600
steps); R1 of 1 instead of 5, with a wider and faster discriminator (with 5, faces stay blank until step 1,800). The
white background was not compared: on black, black density in empty space would be invisible.

Presets: heads (default), smoke, heads_large, celeba, celeba_view, bfm, bfm_view, cats. The published presets
reproduce the authors' settings; we have not yet run any of them to the end, so no result is claimed for them.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common, siren_common


def get_config(preset: str = "heads") -> ConfigDict:
  """`preset` is what follows the colon in --config=configs/shadegan.py:PRESET."""
  presets = {
    "heads": heads,
    "smoke": smoke,
    "heads_large": heads_large,
    "celeba": celeba,
    "celeba_view": celeba_view,
    "bfm": bfm,
    "bfm_view": bfm_view,
    "cats": cats,
  }
  config = common.choose(preset, presets)
  config.method = "shadegan"
  return config


def tracking(**settings) -> ConfigDict:
  """Surface tracking, off unless `enabled`; the defaults are the authors' (shade)."""
  section = ConfigDict(
    {
      "enabled": False,
      "start": 5000,
      "rate": 3e-5,
      "width": (0.24, 0.06),
      "samples": 6,
      "weight": 1.0,
      "perceptual": False,  # the authors' L1 + LPIPS; needs pip install -e '.[metrics]'
      "inference": False,
      "net_width": 256,
      "net_resolution": 128,
    }
  )
  section.update(settings)
  return section


def heads() -> ConfigDict:
  """The embedded heads on a laptop."""
  config = siren_common.heads()
  config.smoothness = siren_common.smoothness()
  # The data set's light distribution (shapegan_jax/data/heads_model.py); lights.prior=fitted estimates it instead.
  config.lights = ConfigDict(
    {
      "prior": "gaussian",
      "mean": (-0.3, 0.22, 0.0, 0.2),
      "covariance": (
        (0.0144, -0.0144, 0.0, 0.0),
        (-0.0144, 0.0156, 0.0, 0.0),
        (0.0, 0.0, 0.36, 0.0),
        (0.0, 0.0, 0.0, 0.16),
      ),
      "ramp": (0, 0),  # shading from the first step: the initial sphere already has valid normals
    }
  )
  config.tracking = tracking()
  return config


def smoke() -> ConfigDict:
  """A quick test in a minute, with surface tracking."""
  config = siren_common.smoke(heads())
  config.tracking = tracking(enabled=True, start=20, rate=0.05, samples=8, net_width=32, net_resolution=16)
  return config


def heads_large() -> ConfigDict:
  """The heads at 128 pixels and full width, with surface tracking (not yet run)."""
  config = siren_common.large(heads())
  config.tracking = tracking(enabled=True)
  return config


def faces() -> ConfigDict:
  """The common settings of the authors' CelebA and BFM runs (shade)."""
  config = siren_common.published()
  config.cameras = siren_common.faces()
  config.discriminator = siren_common.discriminator("progressive", resolution=128)
  config.field.update(view_condition=False, light_condition=True)
  config.lights = light_prior()
  config.tracking = tracking()
  config.optimizers.update(clip=0.3, discriminator_clip=0.3)
  return config


def light_prior() -> ConfigDict:
  """A light prior of our own: the authors' priors, fitted to Unsup3D's predictions, are files next to their weights.

  The first two numbers of the mean are from their render script; the covariance is ours, wide enough for any portrait.
  """
  return ConfigDict(
    {
      "prior": "gaussian",
      "mean": (0.17, 0.42, 0.0, 0.0),
      "covariance": (
        (0.04, 0.0, 0.0, 0.0),
        (0.0, 0.04, 0.0, 0.0),
        (0.0, 0.0, 0.25, 0.0),
        (0.0, 0.0, 0.0, 0.09),
      ),
      "ramp": (5000, 7000),  # shade: no shading, then a ramp
    }
  )


def celeba() -> ConfigDict:
  """CelebA without view conditioning: "slightly better shapes" (shade: CelebA_ShadeGAN_noview, four GPUs)."""
  config = faces()
  config.num_steps = 150_000
  config.data = siren_common.celeba()
  config.stages = siren_common.stages(
    start=(0, 30_000, 70_000, 100_000),
    resolution=(32, 64, 64, 128),
    batch_size=(104, 64, 64, 16),  # 26, 16, 16, 4 x 4 GPUs
    split=(1, 2, 2, 2),
    samples=(12, 12, 12, 12),
    generator_rate=(2e-5, 2e-5, 1e-5, 2e-6),
    discriminator_rate=(2e-4, 2e-4, 1e-4, 2e-5),
    topk_group=(26, 8, 8, 2),
  )
  config.tracking = tracking(enabled=True)
  return config


def celeba_view() -> ConfigDict:
  """CelebA with view conditioning: "better FID" (shade: CelebA_ShadeGAN_view)."""
  config = celeba()
  config.field.view_condition = True
  return config


def bfm() -> ConfigDict:
  """synface, one GPU, without tracking as in the authors' release (shade: BFM_ShadeGAN_noview).

  Their readme warns of hollow faces and starts from a selected checkpoint; our alternative is a sphere start
  (--config.field.sphere_start.radius=0.75, with sharpness and gain).
  """
  config = faces()
  config.num_steps = 81_000
  config.data = siren_common.bfm()
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
  return config


def bfm_view() -> ConfigDict:
  """synface with view conditioning (shade: BFM_ShadeGAN_view)."""
  config = bfm()
  config.field.view_condition = True
  return config


def cats() -> ConfigDict:
  """Cats (shade: CATS_ShadeGAN, four GPUs)."""
  config = faces()
  config.num_steps = 30_000
  config.data = siren_common.cat_crops()
  config.cameras = siren_common.cats()
  config.discriminator = siren_common.discriminator("strided", resolution=64, latent=0, pose=False, coord=False)
  config.stages = siren_common.stages(
    start=(0,),
    resolution=(64,),
    batch_size=(128,),  # 32 x 4 GPUs
    split=(8,),
    samples=(20,),
    generator_rate=(6e-5,),
    discriminator_rate=(2e-4,),
    topk_group=(4,),
  )
  config.objectives.update(r1=0.2, pose=0.0)
  config.optimizers.update(clip=10.0, discriminator_clip=10.0)
  config.tracking = tracking(enabled=True, rate=1e-4, samples=10)
  return config
