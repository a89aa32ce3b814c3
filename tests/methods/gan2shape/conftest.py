"""Fixtures of GAN2Shape's tests."""

from __future__ import annotations

import pytest
from analytic_gan import AnalyticGan
from gan2shape_setup import SIZE

from shapegan_jax.methods.gan2shape.relief_model import ReliefConfig


@pytest.fixture(scope="session")
def gan():
  return AnalyticGan.of(SIZE, ReliefConfig(supersample=1))
