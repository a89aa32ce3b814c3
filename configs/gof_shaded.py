"""GOF under ShadeGAN's multi-lighting constraint: an occupancy surface that must look real under every light.

  python -m shapegan_jax.main --config=configs/gof_shaded.py --workdir=runs/gof_shaded_heads

The combination is ours and unpublished. The field, its root search and its regularisers are those of `configs/gof.py`;
the colour is interpreted as albedo and shaded with normals from the composited gradient of the occupancy logit, under
lights sampled from ShadeGAN's priors.

`heads` (seed 0, 2,200 steps, the first settings tried): all of 256 samples are convex (none hollow), the depth standard
deviation is 0.91 times the data's, normals of the logit are 3.1 degrees from normals of the depth. Compared with GOF,
brows and eye sockets are slightly more pronounced in the shape; compared with ShadeGAN (10.0 degrees), the surface is
much smoother, with fewer features. In the last 500 steps, at 64 pixels, dark blotches appeared in the albedo of some
faces, but not in their shapes.

Presets: heads (default), smoke, heads_large, celeba, bfm, cats. Those for the papers' data sets have GOF's curricula
with ShadeGAN's light priors; we have not yet run any of them, so no result is claimed for them.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import common, gof, shadegan


def get_config(preset: str = "heads") -> ConfigDict:
  """`preset` is what follows the colon in --config=configs/gof_shaded.py:PRESET."""
  presets = {
    "heads": lambda: shaded(gof.heads, shadegan.heads),
    "smoke": lambda: shaded(gof.smoke, shadegan.heads),
    "heads_large": lambda: shaded(gof.heads_large, shadegan.heads),
    "celeba": lambda: shaded(gof.celeba, shadegan.celeba),
    "bfm": lambda: shaded(gof.bfm, shadegan.bfm),
    "cats": lambda: shaded(gof.cats, shadegan.cats),
  }
  config = common.choose(preset, presets)
  config.method = "gof"
  return config


def shaded(surface: Callable[[], ConfigDict], light: Callable[[], ConfigDict]) -> ConfigDict:
  """The config `surface()` with the lights, conditioning and gradient clipping of the config `light()`."""
  config, other = surface(), light()
  config.lights = other.lights
  config.field.update(view_condition=other.field.view_condition, light_condition=other.field.light_condition)
  config.optimizers.update(clip=other.optimizers.clip)
  return config
