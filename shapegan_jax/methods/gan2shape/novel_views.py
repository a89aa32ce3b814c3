"""Novel views and relighting of an instance, in two ways: by its mesh, and by the generator.

"3D": the relief is rendered in the new view or light; consistent, with holes where the surface was never observed.
"GAN": this rendering is projected by the offset encoder and the generator; without holes, but not fully consistent
across views (GAN2Shape, section 4.2). Functions take one instance, whose arrays have a leading axis of 1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from shapegan_jax.geometry.relief import lights_to_world
from shapegan_jax.methods.gan2shape.engine_settings import StagedState, Targets
from shapegan_jax.methods.gan2shape.method import Gan2Shape
from shapegan_jax.methods.gan2shape.relief_model import Reconstruction, shade, views_from_angles
from shapegan_jax.methods.stylegan2.frozen import FrozenGenerator
from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.types import Lights, PyTree, Rendering, record

YAWS_DEG = (-45.0, -33.75, -22.5, -11.25, 0.0, 11.25, 22.5, 33.75, 45.0)
PITCHES_DEG = (-20.0, -10.0, 0.0, 10.0, 20.0)
LIGHTS_X = (-1.5, -0.7, 0.0, 0.7, 1.5)
LIGHTS_Y = (0.0, 0.6)
LIGHTS_STRENGTH = (0.3, 0.6)
_AMBIENT = -0.6  # ambient light added per unit of strength


@record
class NovelViews:
  """m novel views of an instance."""

  mesh: Rendering  # [m, s, s] on white, world frame
  pseudo: Array  # [m, s, s, 3] in [-1, 1]: the pseudo samples given to the encoder
  pseudo_mask: Array  # [m, s, s]
  projected: Array  # [m, s, s, 3] in [-1, 1]: the generator's images of them


def select_instance(state: StagedState, index: ArrayLike) -> tuple[PyTree, Targets]:
  """(networks, targets with an axis of 1) of one instance of an instance-specific run."""
  return jax.tree.map(lambda x: x[index], state.params), jax.tree.map(lambda x: x[index][None], state.targets)


def reconstruct_with_mask(
  method: Gan2Shape, params: PyTree, targets: Targets, *, masked: bool
) -> tuple[Reconstruction, Float[Array, "1 s s"]]:
  """(the reconstruction of the input image, its canonical object mask, which is 1 everywhere if not `masked`)."""
  found = method.model.reconstruct(params, targets.instances.image)
  if not masked:
    return found, jnp.ones_like(targets.instances.mask)
  return found, method.model.canonical_mask(found.canonical.depth, targets.instances.mask, found.views)


def render_novel_views(
  method: Gan2Shape,
  params: PyTree,
  targets: Targets,
  gan: FrozenGenerator,
  views: Float[Array, "m 6"],
  lights: Float[Array, "m 4"],
  *,
  masked: bool,
) -> NovelViews:
  """The instance in views (of `geometry.relief`: radians and units of depth) and lights (codes in the world frame)."""
  found, mask = reconstruct_with_mask(method, params, targets, masked=masked)
  m, lights = views.shape[0], lights_to_world(lights)
  canonical, mask = jax.tree.map(lambda x: jnp.repeat(x, m, 0), (found.canonical, mask))
  rendered = method.model.render_view(canonical.depth, shade(canonical, lights)[0], views)
  inside = mask if method.masks.in_loss else jnp.ones_like(mask)
  pseudo_mask = rendered.valid * sample_image(inside[..., None], rendered.grid, method="nearest")[..., 0]
  pseudo = method.masks.on_background(rendered.image, pseudo_mask)
  mesh = method.render_relief(canonical, lights, views, mask)
  return NovelViews(mesh, pseudo, pseudo_mask, project_with_generator(method, params, targets, gan, pseudo))


def project_with_generator(
  method: Gan2Shape, params: PyTree, targets: Targets, gan: FrozenGenerator, pseudo: Float[Array, "m s s 3"]
) -> Float[Array, "m s s 3"]:
  """The generator's images, in [-1, 1], of pseudo samples of the instance: `G(w + F(E(pseudo) - E(G(w))))`."""
  offset = method.model.apply(params, "offset", pseudo)
  if method.gan.relative:
    offset = offset - method.model.apply(params, "offset", targets.gan_image)
  return method.generate(gan, targets.instances.latent + gan.offset(offset, method.gan.tail))


def sheet_views() -> Float[Array, "_ 6"]:
  """Views of the result sheet: one for each of `YAWS_DEG`, then one for each of `PITCHES_DEG`."""
  yaws = jnp.deg2rad(jnp.array((*YAWS_DEG, *(0.0 for _ in PITCHES_DEG))))
  pitches = jnp.deg2rad(jnp.array((*(0.0 for _ in YAWS_DEG), *PITCHES_DEG)))
  return views_from_angles(yaws, pitches)


def sheet_lights(own: Float[Array, "4"]) -> Float[Array, "_ 4"]:
  """Lights of the result sheet, relative to the instance's `own`: all combinations of `LIGHTS_STRENGTH`, `LIGHTS_Y`
  and `LIGHTS_X`, the last varying fastest."""
  grid = jnp.array([(x, y, u) for u in LIGHTS_STRENGTH for y in LIGHTS_Y for x in LIGHTS_X])
  return relative_lights(own, grid[:, 0], grid[:, 1], grid[:, 2])


def relative_lights(
  own: Float[Array, "4"], x: Float[Array, " m"], y: Float[Array, " m"], strength: Float[Array, " m"]
) -> Float[Array, "m 4"]:
  """Light codes of directions (x, y, 1), with `strength` more diffuse and 0.6 * `strength` less ambient light."""
  return jnp.stack([own[0] + 2 * _AMBIENT * strength, own[1] + 2 * strength, x, y], -1)


def video_views(frames: int) -> Float[Array, "_ 6"]:
  """Views of a video: a closed path through both extreme yaws, with half of the largest pitch."""
  turn = 2 * math.pi * jnp.arange(frames) / frames
  yaw, pitch = math.radians(YAWS_DEG[-1]), math.radians(PITCHES_DEG[-1])
  return views_from_angles(yaw * jnp.sin(turn), pitch / 2 * jnp.sin(2 * turn))


def video_lights(own: Float[Array, "4"], frames: int) -> Float[Array, "_ 4"]:
  """Light codes of a video: the strongest light of the sheet moves once around an ellipse."""
  turn = 2 * math.pi * jnp.arange(frames) / frames
  x, y = LIGHTS_X[-1], LIGHTS_Y[-1]
  strength = jnp.full(frames, LIGHTS_STRENGTH[-1], own.dtype)
  return relative_lights(own, x * jnp.sin(turn), y / 2 + y * jnp.cos(turn), strength)


def light_as_json(light: Lights) -> dict[str, object]:
  """A light, in the world frame, as JSON values."""
  return {
    "ambient": float(light.ambient),
    "diffuse": float(light.diffuse),
    "direction": [float(x) for x in light.direction],
    "code": [float(x) for x in light.code],
  }
