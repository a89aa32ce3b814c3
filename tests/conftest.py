"""Every test runs on two fake CPU devices with shapes checked; rank promotion and our own warnings are errors."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs: what XLA spends on making them fast is lost.
HURRY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2 {HURRY}"

from jaxtyping import install_import_hook

install_import_hook("shapegan_jax", "beartype.beartype")

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def key():
  return jax.random.key(0)
