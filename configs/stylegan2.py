"""StyleGAN2 (Karras et al., CVPR 2020): pictures without shapes, the generator that GAN2Shape starts from.

  python -m shapegan_jax.main --config=configs/stylegan2.py --workdir=runs/stylegan2

What `heads` ends as ships as `stylegan2-heads`.

Presets: heads (default), smoke, celeba, cats, bfm. The last three have the sizes of the generators that GAN2Shape's
authors trained for these sets ("g2s") with the defaults of the public PyTorch code they trained with ("ros"); none of
them has been run by us, so no result is claimed for them. "ada" marks values of Karras et al. 2020b.
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
  """Channels at 4, 8, ... pixels: min(512, multiplier * 16384 / size); multiplier 2 is NVIDIA's config F (ros)."""
  sizes = (2**i for i in range(2, resolution.bit_length()))
  return tuple(min(512, multiplier * 16384 // size) for size in sizes)


def networks(config: ConfigDict, widths: tuple[int, ...], *, latent: int) -> None:
  """Both networks with these channels at 4, 8, ... pixels and latents of this length."""
  # GAN2Shape moves styles within the mapping network and needs all of the published layers.
  config.mapping = ConfigDict({"size": latent, "layers": 8, "rate": 0.01})
  config.synthesis = ConfigDict({"channels": widths, "clamp": 0.0})
  config.discriminator = ConfigDict({"channels": widths, "group": 4, "clamp": 0.0, "exported": True})


def stages(**columns: tuple) -> ConfigDict:
  """Columns of equal length: a stage each. There is no growing: all have the size of the networks."""
  return ConfigDict({"start": (0,), **columns})


def published(resolution: int) -> ConfigDict:
  """What the runs of GAN2Shape's authors have in common."""
  config = common.loop()
  config.num_steps = 800_000  # ros
  config.log_every = 100
  config.preview.update(every=2000, first=200, resolution=resolution)
  config.checkpoint.every = 2000
  config.evaluation.update(every=10_000, images=1024, final_images=10_000, resolution=resolution)
  networks(config, channels(resolution), latent=512)  # g2s: multiplier 1 for these three
  config.stages = stages(
    resolution=(resolution,),
    batch_size=(16,),  # ros, for each GPU; how many they had is not known
    generator_rate=(2e-3,),  # ros
    discriminator_rate=(2e-3,),  # ros
  )
  config.objectives = ConfigDict(
    {
      "r1": 10.0,  # ros, and the next six
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
      "half_life": 5000,  # ros: a decay of 0.5^(32 / 10,000) a step, whatever the batch
      "ramp": 0.0,
      "style_decay": 0.995,  # ada; ros keeps no mean style
    }
  )
  config.augment = ConfigDict(
    {
      # g2s, issue 12: a generator that has learned no shifts serves GAN2Shape badly. The amount is ours.
      "shift": 1 / 16,
      "adaptive": False,
      "target": 0.6,  # ros, ada
      "images": 500_000,  # ros, ada
    }
  )
  return config


def celeba() -> ConfigDict:
  """CelebA at 128 pixels. The authors' crops are Unsup3D's; these are ShadeGAN's, which are near them."""
  config = published(128)
  config.data = common.data("named", tfds_name="celeb_a", image_size=128, crop=142)
  return config


def cats() -> ConfigDict:
  """Cat faces at 256 pixels."""
  config = published(256)
  config.data = common.data("cats", path="data/cats", image_size=256)
  return config


def bfm() -> ConfigDict:
  """Unsup3D's synface at 128 pixels, centre crop 170 (g2s)."""
  config = published(128)
  config.data = common.data("synface", path="data/synface", image_size=128, crop=170)
  return config


def heads() -> ConfigDict:
  """The embedded heads at 64 pixels on two CPU cores. All values not marked are ours."""
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
    generator_rate=(1e-3, 2e-3, 5e-4),  # ada has 2.5e-3 for small pictures, in larger batches; a calm end
    discriminator_rate=(1e-3, 2e-3, 5e-4),
  )
  config.objectives = published(64).objectives
  # ada takes 0.0002 * 64^2 / 8 = 0.1 where nothing is known. In so small a batch that let the generator wander and, by
  # 20,000 steps, collapse to one head; with ten times as much all samples stay different.
  config.objectives.r1 = 1.0
  config.objectives.path = 0.0  # left out for speed
  config.optimizers = ConfigDict({"b1": 0.0, "b2": 0.99})  # ros, ada
  config.averages = ConfigDict({"half_life": 10_000, "ramp": 0.05, "style_decay": 0.995})  # ada
  # The set is small: 4,000 pictures, mirrored 8,000. p may rise faster than in ada, since the run is short.
  config.augment = ConfigDict({"shift": 1 / 16, "adaptive": True, "target": 0.6, "images": 100_000})
  return config


def smoke() -> ConfigDict:
  """A first try: 256 small pictures, 40 steps at 16 pixels, narrow networks; ends within 90 s."""
  config = heads()
  config.num_steps = 40
  config.data.update(image_size=32, num_examples=256)
  networks(config, (32, 32, 16), latent=64)
  config.stages = stages(resolution=(16,), batch_size=(8,), generator_rate=(2.5e-3,), discriminator_rate=(2.5e-3,))
  config.objectives.path = published(64).objectives.path  # a first try goes through everything
  config.log_every = 5
  config.preview.update(first=20, every=40, count=4, resolution=16)
  config.checkpoint.every = 20
  config.evaluation.update(every=40, samples=8, images=8, resolution=16, final_samples=16, final_images=16, views=4)
  return config
