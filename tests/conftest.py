"""Every test runs on two fake CPU devices with shapes checked; rank promotion and our own warnings are errors."""

import os

from compiler_flags import HURRY

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2 {HURRY}"

from jaxtyping import install_import_hook

install_import_hook("shapegan_jax", "beartype.beartype")

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


# Files that take a minute or more begin first, so that no process is left alone with one at the end.
LONG = ("test_configs.py", "test_readme.py", "test_resume.py")


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def key():
  return jax.random.key(0)
