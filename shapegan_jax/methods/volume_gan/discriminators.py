"""The discriminators of the volume methods, chosen by `discriminator.kind`."""

from __future__ import annotations

from typing import Any

from shapegan_jax.errors import UserError
from shapegan_jax.methods.volume_gan.settings import Objectives, StageTable
from shapegan_jax.networks.discriminators import ProgressiveDiscriminator, StridedDiscriminator

DISCRIMINATORS: dict[str, type] = {"progressive": ProgressiveDiscriminator, "strided": StridedDiscriminator}
"""`discriminator.kind` -> network: progressive (GOF, ShadeGAN, pi-GAN on CARLA), strided (pi-GAN on CelebA, Cats)."""


def check_heads(discriminator: Any, objectives: Objectives, latent_dim: int) -> None:
  """Raise where a loss needs a head that the discriminator does not have.

  Raises:
    UserError: a weight on pose or latent and no head that reads it, or a head of another size.
  """
  if objectives.pose and not getattr(discriminator, "pose", False):
    raise UserError(
      f"config.objectives.pose: {objectives.pose:g}, but the discriminator has no pose head; "
      "set config.discriminator.pose=True, or config.objectives.pose=0"
    )
  found = getattr(discriminator, "latent_dim", 0)
  if objectives.latent and found != latent_dim:
    raise UserError(
      f"config.objectives.latent: {objectives.latent:g} needs config.discriminator.latent_dim={latent_dim}, the "
      f"generator's; it is {found}"
    )


def check_sizes(discriminator: Any, table: StageTable) -> None:
  """Raise where a stage's pictures are of a size that the discriminator cannot read.

  Raises:
    UserError: a resolution is no power of two between 4 and `max_resolution`.
  """
  sizes = [2**n for n in range(2, discriminator.max_resolution.bit_length())]
  if odd := [size for size in table.resolution if size not in sizes]:
    raise UserError(
      f"config.stages.resolution: {odd[0]} is no size that the discriminator reads ({', '.join(map(str, sizes))}); "
      "choose one of them, or raise config.discriminator.max_resolution"
    )
