"""Smooth normals, a term of ours for radiance fields: GOF's smoothness where some rays of a picture should end.

A view of 64 pixels does not tell waves half a pixel deep from paint, and a SIREN is made of waves.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from shapegan_jax.methods.volume_gan.renderer import FieldOf
from shapegan_jax.numerics import l2_normalize
from shapegan_jax.objectives.shape import normal_smoothness
from shapegan_jax.rendering.volume import points_at, with_gradient
from shapegan_jax.rng import stream
from shapegan_jax.sections import Count, Weight
from shapegan_jax.types import Array, Key, Lights, PyTree, Rays, Rendering


@dataclasses.dataclass(frozen=True)
class SmoothnessConfig:
  """`weight` of how far the normals at the expected ends of `rays` rays a picture are from those `neighbour` world
  units away."""

  weight: Weight = 0.0
  rays: Count = 128
  neighbour: Weight = 1e-2

  def normal_pairs(
    self,
    field_of: FieldOf,
    params: PyTree,
    key: Key,
    codes: tuple[Array, ...],
    rays: Rays,
    lights: Lights | None,
    rendering: Rendering,
  ) -> dict[str, Array]:
    """{"pair" [b, rays, 2, 3], "found" [b, rays]}: unit normals where some of the rays [b, h w] of renderings [b, h, w]
    are expected to end and a step from there in a random direction, of rays that are mostly absorbed; {} without a
    weight. The places carry no gradient.
    """
    if not self.weight:
      return {}
    batch, n_rays = rays.near.shape
    chosen = jax.random.randint(stream(key, "smooth rays"), (batch, self.rays), 0, n_rays)
    distance, acc = jax.lax.stop_gradient([x.reshape(batch, -1) for x in (rendering.distance, rendering.acc)])
    rays, distance, acc = jax.vmap(lambda rows, i: jax.tree.map(lambda x: x[i], rows))((rays, distance, acc), chosen)
    places = points_at(rays, distance[..., None])
    direction = jax.random.uniform(stream(key, "smooth steps"), places.shape, minval=-1.0)
    pair = jnp.concatenate([places, places + self.neighbour * l2_normalize(direction)], -2)

    def gradient(codes: tuple[Array, ...], light: Lights | None, points: Array, viewdirs: Array) -> Array:
      return with_gradient(field_of(params, codes, light))(points, viewdirs).gradient

    return {"pair": l2_normalize(-jax.vmap(gradient)(codes, lights, pair, rays.viewdirs)), "found": acc > 0.5}

  def losses(self, pairs: dict[str, Array]) -> dict[str, Array]:
    """The weighted term of `normal_pairs`; {} without a weight."""
    return {"smooth": self.weight * normal_smoothness(pairs["pair"], pairs["found"])} if self.weight else {}
