"""GRAF (Schwarz et al., NeurIPS 2020): a radiance field with codes for shape and appearance, learned from patches.

  python -m shapegan_jax.main --config=configs/graf.py --workdir=runs/graf

`heads` (seed 0, 2,200 steps): all of 256 samples are convex (none hollow), the depth standard deviation is 0.99 times
the data's, normals of the density are 6.9 degrees from normals of the depth; 0.41 s per step (pi-GAN: 0.74 s at 32
pixels). Eight settings of R1 (5 to 0.1) and learning rates were tried for 40 to 2,200 steps: with R1 of 0.2 or less
from the start the discriminator wins immediately and the shapes collapse; with 0.5 or more it is at chance level after
about 700 steps and faces stay blank; the setting that was kept anneals R1 from 1 to 0.05, which helps a little.

Presets: heads (default), smoke, heads_large, celeba, bfm, cats, carla. The published presets reproduce the authors'
settings ("graf": their released configs, commit c50d342); we have not yet run any of them to the end, so no result is
claimed for them.
"""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from configs import common, siren_common


def get_config(preset: str = "heads") -> ConfigDict:
  """`preset` is what follows the colon in --config=configs/graf.py:PRESET."""
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
  config.method = "graf"
  return config


def field(**settings) -> ConfigDict:
  """The conditional field; the defaults are the authors' (graf)."""
  section = ConfigDict(
    {
      "width": 256,
      "depth": 8,
      "skip": 4,  # the layer after this one reads the inputs again
      "position_bands": 10,
      "direction_bands": 4,
      "shape_dim": 128,
      "appearance_dim": 128,
      "view_condition": True,
      "warp_scale": 1.0,  # graf: world coordinates, about -2.5 to 2.5
      "z_up": True,  # graf: positions are encoded in a frame with the z axis up
      "front_deg": 0.0,
      "sine": "exact",
      "sphere_start": {},  # off
    }
  )
  section.update(settings)
  return section


def cameras(**settings) -> ConfigDict:
  """Cameras uniform on a part of a sphere of radius 10, `yaw` and `pitch` from low to high (graf)."""
  section = ConfigDict(
    {
      "fov_deg": 10.0,
      "near": 7.5,
      "far": 12.5,
      "radius": 10.0,
      "radius_max": 0.0,  # if larger than radius: uniform between the two
      "planar_range": True,  # near and far are depths
      "align": "left",  # pixel i of n is at 2i / n - 1
      "prior": "spherical",
    }
  )
  section.update({name: tuple(map(math.radians, settings.pop(f"{name}_deg"))) for name in ("yaw", "pitch")})
  section.update(settings)
  return section


def objectives(*, r1: float, shared_fakes: bool) -> ConfigDict:
  """The adversarial loss with R1, without identity penalty or top-k."""
  return ConfigDict(
    {"r1": r1, "pose": 0.0, "latent": 0.0, "topk_interval": 2000, "topk_share": 1.0, "shared_fakes": shared_fakes}
  )


def published(resolution: int) -> ConfigDict:
  """The common settings of the published runs (graf)."""
  config = siren_common.published()
  del config.mapping
  config.num_steps = 300_000  # ours: the authors' loop is endless and keeps the best model by FID
  config.field = field()
  config.patches = ConfigDict(
    {
      "size": 32,
      "min_scale": 0.25,
      "anneal": 0.0025,  # the minimal scale is 0.9 until step 14,000 and 0.25 from step 185,000 on
      "interval": 1000,
      "first_scale": 0.9,
    }
  )
  config.discriminator = ConfigDict({"width_multiplier": 1.0})
  config.rendering.update(fine=False, eval_samples=64)
  # The weight of R1 is 10, without pi-GAN's factor 1/2; but the released code divides by the pixels of a patch as well
  # as by the number of patches: 10/1024 per patch. 10 per patch would be 1024 times as strong.
  config.objectives = objectives(r1=20 / 1024, shared_fakes=False)
  config.optimizers = ConfigDict(
    {"kind": "rmsprop", "b1": 0.0, "b2": 0.9, "alpha": 0.99, "clip": 0.0, "discriminator_clip": 0.0}
  )
  config.averages = ConfigDict({"decay": 0.999, "slow_decay": 0.9999, "warmup": False})
  config.stages = siren_common.stages(
    start=(0, 50_000, 100_000, 200_000),
    resolution=(resolution,) * 4,
    batch_size=(8,) * 4,
    samples=(64,) * 4,
    generator_rate=(5e-4, 2.5e-4, 1.25e-4, 6.25e-5),
    discriminator_rate=(1e-4, 5e-5, 2.5e-5, 1.25e-5),
    fade_steps=0,
  )
  return config


def celeba() -> ConfigDict:
  """CelebA at 64 pixels, crop 108 (graf; released at 128 too)."""
  config = published(64)
  config.data = common.data("named", tfds_name="celeb_a", image_size=64, crop=108)
  # Azimuth 0 to 90 degrees with mirrored images: faces look towards 45 degrees. Polar angles 70 to 85 degrees.
  config.field.front_deg = 45.0
  config.cameras = cameras(radius=9.5, radius_max=10.5, yaw_deg=(-45.0, 45.0), pitch_deg=(5.0, 20.0))
  return config


def bfm() -> ConfigDict:
  """synface at 64 pixels: GRAF's authors released no settings for it, so these are `celeba`'s with synface's poses.

  Poses are uniform within two standard deviations of the other methods' prior (shade: 0.3 and 0.155 radians).
  """
  config = celeba()
  config.data = common.data("synface", path="data/synface", image_size=64, crop=170)
  config.cameras = cameras(radius=9.5, radius_max=10.5, yaw_deg=(-34.4, 34.4), pitch_deg=(-17.8, 17.8))
  config.field.front_deg = 0.0
  return config


def cats() -> ConfigDict:
  """Cats at 64 pixels (graf)."""
  config = published(64)
  config.data = common.data("cats", path="data/cats", image_size=64)
  config.field.front_deg = 35.0  # azimuth 0 to 70 degrees
  config.cameras = cameras(yaw_deg=(-35.0, 35.0), pitch_deg=(5.0, 20.0))
  return config


def carla() -> ConfigDict:
  """CARLA at 64 pixels: cars from all views above the ground, on white (graf; released at 128, 256 and 512 too)."""
  config = published(64)
  config.data = common.data("carla", path="data/carla", image_size=64, flip=False)
  config.cameras = cameras(fov_deg=30.0, yaw_deg=(-180.0, 180.0), pitch_deg=(5.0, 90.0))
  config.rendering.background = 1.0
  return config


def heads() -> ConfigDict:
  """The embedded heads on two CPU cores. All values are ours.

  A narrow field on the unit box, initialised to a soft sphere as in the other methods' presets. Patches are 32 x 32 of
  64 x 64 pixels, so that a step costs a quarter of one with whole images.
  """
  config = siren_common.heads()
  del config.mapping
  config.field = field(
    width=64,
    depth=4,
    skip=1,
    position_bands=5,  # angular frequencies up to 2^4, in a box of side 2
    direction_bands=1,
    shape_dim=32,
    appearance_dim=32,
    view_condition=False,
    warp_scale=2 / 0.24,  # the volume of side 0.24 becomes [-1, 1]
    z_up=False,
    sine="fast",
    sphere_start={"radius": 0.75, "sharpness": 250.0, "gain": 60.0},
  )
  config.cameras.update(radius_max=0.0, planar_range=False, align="corners")
  config.patches = ConfigDict({"size": 32, "min_scale": 0.5, "anneal": 0.0125, "interval": 100, "first_scale": 0.9})
  config.discriminator = ConfigDict({"width_multiplier": 0.25})
  config.objectives = objectives(r1=1.0, shared_fakes=True)
  config.objectives.update(r1_final=0.05, r1_ramp=(200, 700))
  config.optimizers = ConfigDict(
    {"kind": "adam", "b1": 0.0, "b2": 0.9, "alpha": 0.99, "clip": 1.0, "discriminator_clip": 10.0}
  )
  config.averages = ConfigDict({"decay": 0.995, "slow_decay": 0.999, "warmup": True})
  config.stages = siren_common.stages(
    start=(0, 1650),
    resolution=(64, 64),
    batch_size=(8, 8),
    samples=(12, 12),
    generator_rate=(1e-3, 5e-4),
    discriminator_rate=(1e-4, 1e-4),
    fade_steps=0,
  )
  return config


def smoke() -> ConfigDict:
  """A quick test in a minute: patches of 16 x 16 of 32 x 32 pixels."""
  config = siren_common.smoke(heads(), resolution=32, generator_rate=5e-4, discriminator_rate=3e-4)
  config.patches.update(size=16, interval=2)
  return config


def heads_large() -> ConfigDict:
  """The heads at 128 pixels and full width, for an accelerator. Values are ours; not yet run."""
  config = published(128)
  small = heads()
  config.num_steps = 100_000
  config.data = common.data("heads", image_size=128)
  config.cameras = small.cameras
  config.preview.resolution = 128
  config.evaluation.resolution = 64
  config.field.update(
    position_bands=6,
    warp_scale=small.field.warp_scale,
    view_condition=False,
    z_up=False,
    sphere_start=small.field.sphere_start,
  )
  config.patches.update(interval=300)
  config.rendering.update(last="far", background=1.0, density_noise_steps=0, eval_samples=32)
  # R1 is annealed over the same fraction of the run as in `heads` (steps 200 to 700 of 2,000).
  config.objectives.update(
    r1=small.objectives.r1,
    r1_final=small.objectives.r1_final,
    r1_ramp=tuple(step * config.num_steps // small.num_steps for step in small.objectives.r1_ramp),
  )
  config.stages.update(
    start=(0, 25_000, 50_000, 75_000), batch_size=(32,) * 4, samples=(32,) * 4, resolution=(128,) * 4
  )
  return config
