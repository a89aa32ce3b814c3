"""StyleGAN2 (Karras et al., CVPR 2020): a 2D image generator, the starting point of GAN2Shape.

  python -m shapegan_jax.main --config=configs/stylegan2.py --workdir=runs/stylegan2

The result of `heads` ships as `stylegan2-heads`.

Presets: heads (default), smoke, celeba, cats, bfm. The last three have the sizes of the generators that GAN2Shape's
authors trained on these data sets ("g2s") and the defaults of the public PyTorch code they used ("ros"); we have not
run any of them, so no result is claimed for them. "ada" marks values from Karras et al. 2020b.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(preset: str = "heads") -> ConfigDict:
  """`preset` is what follows the colon in --config=configs/stylegan2.py:PRESET."""
  presets = {"heads": heads, "smoke": smoke, "celeba": celeba, "cats": cats, "bfm": bfm}
  config = common.choose(preset, presets)
  config.method = "stylegan2"
  return config


def channels(resolution: int, *, multiplier: int = 1) -> tuple[int, ...]:
  """Channels at 4, 8, ... pixels: min(512, multiplier * 16384 / size); a multiplier of 2 is NVIDIA's config F (ros)."""
  sizes = (2**i for i in range(2, resolution.bit_length()))
  return tuple(min(512, multiplier * 16384 // size) for size in sizes)


def networks(config: ConfigDict, widths: tuple[int, ...], *, latent: int) -> None:
  """Sets the sections of generator and discriminator for these channels at 4, 8, ... pixels and this latent length."""
  # GAN2Shape changes latents inside the mapping network and needs all of its published layers.
  config.mapping = ConfigDict({"size": latent, "layers": 8, "rate": 0.01})
  config.synthesis = ConfigDict({"channels": widths, "clamp": 0.0})
  config.discriminator = ConfigDict({"channels": widths, "group": 4, "clamp": 0.0})
  config.export = ConfigDict({"discriminator": True})


def stages(**columns: tuple) -> ConfigDict:
  """The table of stages from columns of equal length. All stages have the networks' resolution (no growing)."""
  return ConfigDict({"start": (0,), **columns})


def published(resolution: int) -> ConfigDict:
  """The common settings of the runs of GAN2Shape's authors."""
  config = common.loop()
  config.num_steps = 800_000  # ros
  config.log_every = 100
  config.preview.update(every=2000, first=200, resolution=resolution)
  config.checkpoint.every = 2000
  config.evaluation.update(every=10_000, images=1024, final_images=10_000, resolution=resolution)
  networks(config, channels(resolution), latent=512)  # g2s: multiplier 1 for these three
  config.stages = stages(
    resolution=(resolution,),
    batch_size=(16,),  # ros, per GPU; the number of GPUs is not known
    generator_rate=(2e-3,),  # ros
    discriminator_rate=(2e-3,),  # ros
  )
  config.objectives = ConfigDict(
    {
      "r1": 10.0,  # ros, as are the next six
      "r1_every": 16,
      "path": 2.0,
      "path_every": 4,
      "path_shrink": 2,
      "path_decay": 0.01,
      "mixing": 0.9,
    }
  )
  config.optimizers = ConfigDict({"b1": 0.0, "b2": 0.99})  # ros
  config.averages = ConfigDict(
    {
      "half_life": 5000,  # ros: a decay of 0.5^(32 / 10,000) per step, for any batch size
      "ramp": 0.0,
      "style_decay": 0.995,  # ada; ros has no running mean of styles
    }
  )
  config.augment = ConfigDict(
    {
      # g2s, issue 12: GAN2Shape needs a generator that was trained with shifts. The amount is ours.
      "shift": 1 / 16,
      "adaptive": False,
      "target": 0.6,  # ros, ada
      "images": 500_000,  # ros, ada
    }
  )
  return config


def celeba() -> ConfigDict:
  """CelebA at 128 pixels. The authors use Unsup3D's crops; these are ShadeGAN's, which are similar."""
  config = published(128)
  config.data = common.data("named", tfds_name="celeb_a", image_size=128, crop=142)
  return config


def cats() -> ConfigDict:
  """Cat faces at 256 pixels."""
  config = published(256)
  config.data = common.data("cats", path="data/cats", image_size=256)
  return config


def bfm() -> ConfigDict:
  """Unsup3D's synface at 128 pixels, centre crop of 170 pixels (g2s)."""
  config = published(128)
  config.data = common.data("synface", path="data/synface", image_size=128, crop=170)
  return config


def heads() -> ConfigDict:
  """The embedded heads at 64 pixels on two CPU cores. All unmarked values are ours."""
  config = common.loop()
  config.num_steps = 30_000
  config.data = common.data("heads")
  config.preview.update(first=100)
  config.evaluation.update(every=1000, images=256, resolution=64)
  networks(config, (96, 96, 64, 40, 20), latent=128)
  config.stages = stages(
    start=(0, 7500, 26_000),
    resolution=(64, 64, 64),
    batch_size=(8, 8, 8),
    generator_rate=(1e-3, 2e-3, 5e-4),  # ada: 2.5e-3 for small images, with larger batches; lower at the end
    discriminator_rate=(1e-3, 2e-3, 5e-4),
  )
  config.objectives = published(64).objectives
  # ada's heuristic is 0.0002 * 64^2 / 8 = 0.1. With such small batches the generator drifted and collapsed to one head
  # by 20,000 steps; with ten times the weight samples stay diverse.
  config.objectives.r1 = 1.0
  config.objectives.path = 0.0  # left out for speed
  config.optimizers = ConfigDict({"b1": 0.0, "b2": 0.99})  # ros, ada
  config.averages = ConfigDict({"half_life": 10_000, "ramp": 0.05, "style_decay": 0.995})  # ada
  # The data set is small: 4,000 images, 8,000 with mirroring. As the run is short, p may rise faster than in ada.
  config.augment = ConfigDict({"shift": 1 / 16, "adaptive": True, "target": 0.6, "images": 100_000})
  return config


def smoke() -> ConfigDict:
  """A quick test: 256 small images, 40 steps at 16 pixels, narrow networks; it ends within 90 s."""
  config = heads()
  config.num_steps = 40
  config.data.update(image_size=32, num_examples=256)
  networks(config, (32, 32, 16), latent=64)
  config.stages = stages(resolution=(16,), batch_size=(8,), generator_rate=(2.5e-3,), discriminator_rate=(2.5e-3,))
  config.objectives.path = published(64).objectives.path  # so that the test covers path length regularisation
  config.log_every = 5
  config.preview.update(first=20, every=40, count=4, resolution=16)
  config.checkpoint.every = 20
  config.evaluation.update(every=40, samples=8, images=8, resolution=16, final_samples=16, final_images=16, views=4)
  return config
