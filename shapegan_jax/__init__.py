"""shapegan_jax: 3D shapes learned from unposed 2D images.

Importing the package costs nothing; jax starts when a public name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from shapegan_jax.errors import UserError
  from shapegan_jax.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "UserError", "__version__", "load"]

_HOMES = {"Model": "shapegan_jax.model", "UserError": "shapegan_jax.errors", "load": "shapegan_jax.model"}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module 'shapegan_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted(__all__)
