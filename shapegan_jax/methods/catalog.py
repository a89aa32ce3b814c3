"""The methods by name, and how a config becomes one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from shapegan_jax.errors import UserError
from shapegan_jax.methods.base import Method

_VOLUME = "shapegan_jax.methods.volume_gan"
METHODS = {
  "graf": f"{_VOLUME}.graf:Graf",
  "pigan": f"{_VOLUME}.pigan:PiGan",
  "gof": f"{_VOLUME}.gof:Gof",
  "shadegan": f"{_VOLUME}.shadegan:ShadeGan",
  "stylegan2": "shapegan_jax.methods.stylegan2.method:StyleGan2",
  "gan2shape": "shapegan_jax.methods.gan2shape.method:Gan2Shape",
}
"""Name -> "module:Class"; a class is imported when it is asked for."""


def method_class(name: Any) -> type:
  """The class of a method: one of `Method`.

  Raises:
    UserError: no method has this name.
  """
  if not isinstance(name, str) or name not in METHODS:
    raise UserError(f"config.method: no method is called {name!r}; the methods are {', '.join(METHODS)}")
  module, _, cls = METHODS[name].partition(":")
  return getattr(importlib.import_module(module), cls)


def check_method(config: Mapping[str, Any]) -> None:
  """Raise what `build` would raise for a setting, before a data set or another model is opened.

  Raises:
    UserError: an unknown method, a setting that it does not have, a value that may not stand there, or two that
      contradict each other.
  """
  method_class(config.get("method")).read(config)


def build(config: Mapping[str, Any]) -> Method:
  """The method of a plain nested config (`ConfigDict.to_dict()`). Raises what `check_method` raises."""
  return method_class(config.get("method")).from_config(config)


def resolve(config: dict[str, Any], source: Any) -> dict[str, Any]:
  """The config with what must be read off the data set filled in as numbers, so that the saved config is complete.

  Today that is one thing: `lights.prior = "fitted"` becomes the mean and covariance of the set's own lights.
  """
  if config.get("lights", {}).get("prior") != "fitted":
    return config
  from shapegan_jax.rendering.shading import fit_gaussian_lights

  codes = source.lights() if hasattr(source, "lights") else None
  if codes is None:
    raise UserError(
      "config.lights.prior: 'fitted' needs a data set that carries lights and this one has none; "
      "use --config.lights.prior=gaussian with lights.mean and lights.covariance"
    )
  fitted = fit_gaussian_lights(codes)
  lights = dict(config["lights"])
  lights.update(
    prior="gaussian",
    mean=tuple(float(m) for m in fitted.mean),
    covariance=tuple(tuple(float(c) for c in row) for row in fitted.cov),
  )
  return {**config, "lights": lights}
