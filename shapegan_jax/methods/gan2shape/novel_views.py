"""A lifted picture seen from other sides and in other lights, both ways: by its mesh, and by the generator.

"3D": the relief is turned or relit and drawn; one object in all views, with holes where it was never seen. "GAN": that
drawing goes through the offset encoder and the generator draws what is nearest to it; without holes, and not quite the
same object in all views (GAN2Shape, section 4.2). Functions are of one subject, whose arrays have a leading axis of 1.
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
from shapegan_jax.methods.gan2shape.relief_model import Reconstruction, lit, views_at
from shapegan_jax.rendering.warping import sample_image
from shapegan_jax.types import Lights, PyTree, Rendering, record

YAWS_DEG = (-45.0, -33.75, -22.5, -11.25, 0.0, 11.25, 22.5, 33.75, 45.0)
PITCHES_DEG = (-20.0, -10.0, 0.0, 10.0, 20.0)
LIGHTS_X = (-1.5, -0.7, 0.0, 0.7, 1.5)
LIGHTS_Y = (0.0, 0.6)
LIGHTS_STRENGTH = (0.3, 0.6)
_AMBIENT = -0.6  # of a light's strength is added to the ambient part


@record
class Shots:
  """m pictures of a subject."""

  mesh: Rendering  # [m, s, s] on white, world frame
  drawn: Array  # [m, s, s, 3] in [-1, 1]: what the generator is shown
  drawn_mask: Array  # [m, s, s]
  gan: Array  # [m, s, s, 3] in [-1, 1]: what it draws


def subject_of(state: StagedState, index: ArrayLike) -> tuple[PyTree, Targets]:
  """(networks, targets with an axis of 1) of one subject of a run of instances."""
  return jax.tree.map(lambda x: x[index], state.params), jax.tree.map(lambda x: x[index][None], state.targets)


def explain(
  method: Gan2Shape, params: PyTree, targets: Targets, *, masked: bool
) -> tuple[Reconstruction, Float[Array, "1 s s"]]:
  """(what is read off a subject's picture, the canonical mask: its own, or with `masked=False` everything)."""
  found = method.model.reconstruct(params, targets.subjects.image)
  if not masked:
    return found, jnp.ones_like(targets.subjects.mask)
  return found, method.model.canonical_mask(found.canonical.depth, targets.subjects.mask, found.views)


def shoot(
  method: Gan2Shape,
  params: PyTree,
  targets: Targets,
  gan: PyTree,
  views: Float[Array, "m 6"],
  lights: Float[Array, "m 4"],
  *,
  masked: bool,
) -> Shots:
  """The subject in views (`geometry.relief`'s, radians and units of depth) and lights (codes in the world's frame)."""
  found, mask = explain(method, params, targets, masked=masked)
  m, lights = views.shape[0], lights_to_world(lights)
  canonical, mask = jax.tree.map(lambda x: jnp.repeat(x, m, 0), (found.canonical, mask))
  seen = method.model.see(canonical.depth, lit(canonical, lights)[0], views)
  inside = mask if method.masks.in_loss else jnp.ones_like(mask)
  drawn_mask = seen.valid * sample_image(inside[..., None], seen.grid, method="nearest")[..., 0]
  drawn = method.masks.on_background(seen.image, drawn_mask)
  mesh = method.view_of(canonical, lights, views, mask)
  return Shots(mesh, drawn, drawn_mask, by_generator(method, params, targets, gan, drawn))


def by_generator(
  method: Gan2Shape, params: PyTree, targets: Targets, gan: PyTree, drawn: Float[Array, "m s s 3"]
) -> Float[Array, "m s s 3"]:
  """The generator's pictures, in [-1, 1], of drawings of the subject: `G(w + F(E(drawn) - E(G(w))))`."""
  offset = method.model.apply(params, "offset", drawn)
  if method.gan.relative:
    offset = offset - method.model.apply(params, "offset", targets.rendition)
  return method.rendition(gan, targets.subjects.latent + gan.offset(offset, method.gan.tail))


def sheet_views() -> Float[Array, "_ 6"]:
  """From `YAWS_DEG`, then from `PITCHES_DEG`: the cameras that go around the canonical view."""
  yaws = jnp.deg2rad(jnp.array((*YAWS_DEG, *(0.0 for _ in PITCHES_DEG))))
  pitches = jnp.deg2rad(jnp.array((*(0.0 for _ in YAWS_DEG), *PITCHES_DEG)))
  return views_at(yaws, pitches)


def sheet_lights(own: Float[Array, "4"]) -> Float[Array, "_ 4"]:
  """Light codes that change a subject's `own`: from each of `LIGHTS_X` for each of `LIGHTS_Y`, first with the first of
  `LIGHTS_STRENGTH`, then with the next."""
  grid = jnp.array([(x, y, u) for u in LIGHTS_STRENGTH for y in LIGHTS_Y for x in LIGHTS_X])
  return relit(own, grid[:, 0], grid[:, 1], grid[:, 2])


def relit(
  own: Float[Array, "4"], x: Float[Array, " m"], y: Float[Array, " m"], strength: Float[Array, " m"]
) -> Float[Array, "m 4"]:
  """Light codes from directions (x, y, 1): `strength` more diffuse light than `own`, and 0.6 as much less ambient."""
  return jnp.stack([own[0] + 2 * _AMBIENT * strength, own[1] + 2 * strength, x, y], -1)


def swing(frames: int) -> Float[Array, "_ 6"]:
  """Views of a video: once to either side, up and down by half as much as the sheet goes, and back to the front."""
  turn = 2 * math.pi * jnp.arange(frames) / frames
  yaw, pitch = math.radians(YAWS_DEG[-1]), math.radians(PITCHES_DEG[-1])
  return views_at(yaw * jnp.sin(turn), pitch / 2 * jnp.sin(2 * turn))


def circling(own: Float[Array, "4"], frames: int) -> Float[Array, "_ 4"]:
  """Light codes of a video: the sheet's strongest light goes once around, from above where it passes the middle."""
  turn = 2 * math.pi * jnp.arange(frames) / frames
  x, y = LIGHTS_X[-1], LIGHTS_Y[-1]
  strength = jnp.full(frames, LIGHTS_STRENGTH[-1], own.dtype)
  return relit(own, x * jnp.sin(turn), y / 2 + y * jnp.cos(turn), strength)


def in_numbers(light: Lights) -> dict[str, object]:
  """A light, world frame, for a file."""
  return {
    "ambient": float(light.ambient),
    "diffuse": float(light.diffuse),
    "direction": [float(x) for x in light.direction],
    "code": [float(x) for x in light.code],
  }
