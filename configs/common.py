"""What all configs share: the loop's settings, data sets, and `shrink`, the one way tests make any config small."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def loop() -> ConfigDict:
  """Settings of the training loop, the same for every method."""
  config = ConfigDict()
  config.seed = 0
  config.num_steps = 1000
  config.log_every = 10
  # A first picture early, then one every so often: one fixed set of latents, so that pictures compare.
  config.preview = ConfigDict({"every": 250, "first": 20, "count": 8, "resolution": 64})
  config.checkpoint = ConfigDict({"every": 250, "keep": 2, "asynchronous": True})
  config.evaluation = ConfigDict(
    {
      # By name (shapegan_jax/evaluation/measures.py): what --mode=eval measures, and what training logs.
      "measures": ("health", "views", "images", "depth"),
      "training_measures": ("health", "images"),
      # While training: convexity, depth deviation and agreement of normals of `samples` shapes (`final_samples` at the
      # end and by --mode=eval), and the distance of `images` pictures from real ones.
      "every": 500,
      "samples": 32,
      "final_samples": 256,
      "images": 128,
      "resolution": 32,
      # By --mode=eval alone, at the resolution of the last stage: `final_images`, and `views` shapes from two sides.
      "final_images": 1024,
      "views": 64,
      "features": "random",  # or alexnet, vgg16 (extra [metrics]), inception with its weights as `features_file`
      "features_file": placeholder(str),
      # SIDE and MAD, where the set has ground truth: that many generated pairs train a depth network (0: left out).
      "depth_pairs": 0,
      "depth_steps": 1500,
    }
  )
  return config


def data(name: str, **settings) -> ConfigDict:
  """A data section; None means the set's default. `resize="legacy"` is the published nearest-neighbour resize."""
  section = ConfigDict(
    {
      "name": name,
      "split": "train",
      "path": placeholder(str),
      "image_size": 64,
      "crop": placeholder(int),
      "flip": True,
      "resize": "antialias",
      "num_examples": placeholder(int),
      "cache_dir": placeholder(str),
      "tfds_name": placeholder(str),
      "background": placeholder(str),
    }
  )
  section.update(settings)
  return section


def choose(preset: str, presets: dict[str, Callable[[], ConfigDict]]) -> ConfigDict:
  """The config of a preset; an unknown one names those that exist."""
  if preset not in presets:
    raise ValueError(
      f"no preset {preset!r}; choose one of: {', '.join(presets)} (as in --config=FILE.py:{next(iter(presets))})"
    )
  return presets[preset]()


def shrink(config: ConfigDict) -> ConfigDict:
  """The same config, small enough for a test: narrow networks, 8 to 16 pixels, batch 4, few samples, short schedules.

  Everything that decides which code runs stays as it is (stages, fades, heads, conditioning, tracking); only sizes
  shrink.
  """
  small = config.copy_and_resolve_references()
  with small.unlocked():
    small.num_steps = 2
    if "field" in small:
      small.field.width, small.field.depth = 16, 2
      small.discriminator.width_multiplier = 0.02
    if "synthesis" in small:  # channels at 4 and 8 pixels
      small.mapping.update(size=8, layers=2)
      small.synthesis.channels = small.discriminator.channels = (8, 8)
    elif "mapping" in small:
      small.mapping.update(latent_dim=8, hidden_dim=16, n_hidden=1)
      small.discriminator.max_resolution = 16
      if small.discriminator.latent_dim:
        small.discriminator.latent_dim = small.mapping.latent_dim
    if "patches" in small:
      small.patches.size = 8
      small.field.update(skip=0, position_bands=2, direction_bands=1, shape_dim=4, appearance_dim=4)
    small.preview.update(count=2, resolution=8)
    small.evaluation.update(samples=2, final_samples=4, images=0, final_images=0, views=0, resolution=8)
    stages = small.stages
    if "instances" in small:
      small.gan.model, network = "", small.gan.network
      network.mapping.size = 8
      network.synthesis.channels = network.discriminator.channels = (8, 8)
      small.instances.count = 2
      small.networks.update(width=8, bottleneck=8, encoder_width=8, offset_width=8)
      stages.update(resolution=8, images_per_step=1, samples=2, pool=4)
      stages.prior = 2
      for name in ("albedo", "pose_warmup", "encoder", "joint"):
        stages[name] = tuple(2 if steps else 0 for steps in stages[name])
      return small
    least = min(stages.resolution)
    stages.resolution = tuple(8 if r == least else 16 for r in stages.resolution)
    stages.batch_size = tuple(4 for _ in stages.batch_size)
    if "samples" in stages:
      stages.topk_group = tuple(2 if group else 0 for group in stages.topk_group)
      stages.samples = tuple(4 for _ in stages.samples)
    if "tracking" in small:
      small.tracking.update(net_width=32, net_resolution=16, samples=3, perceptual=False)
  return small
