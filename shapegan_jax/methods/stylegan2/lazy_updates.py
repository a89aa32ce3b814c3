"""Updates by Adam, some of which are only due every few steps (Karras et al. 2020, StyleGAN2, section 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from shapegan_jax.types import PyTree

Loss = Callable[[PyTree], tuple[Array, Any]]
"""Parameters -> (loss [], whatever else is wanted of it)."""


def lazy_adam(b1: float, b2: float, every: int) -> tuple[optax.GradientTransformation, float]:
  """(Adam without a rate, the factor of the rate).

  A penalty that is an update of its own every k steps makes k + 1 updates of k. Rate and decays are corrected by
  c = k / (k + 1), so that as much is moved and forgotten per step as without it. `every` = 0: there is no penalty.
  """
  c = every / (every + 1) if every else 1.0
  return optax.scale_by_adam(b1=b1**c, b2=b2**c, eps=1e-8), c


@dataclasses.dataclass(frozen=True)
class Descent:
  """Updates of one network by one Adam."""

  adam: optax.GradientTransformation
  factor: float
  rate: Array

  def step(self, loss: Callable[[PyTree], tuple[Array, Any]], params: PyTree, opt: PyTree) -> tuple[Any, ...]:
    """(parameters, moments, loss, what the loss returned beside it) after an update."""
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt = self.adam.update(grads, opt)
    return jax.tree.map(lambda p, u: p - self.factor * self.rate * u, params, updates), opt, value, aux

  def step_if(
    self, due: Array, loss: Callable[[PyTree], tuple[Array, Any]], params: PyTree, opt: PyTree, aux: Any
  ) -> tuple[Any, ...]:
    """`step` where `due`; else nothing is computed, the loss is 0 and `aux` comes back."""
    return jax.lax.cond(due, lambda p, o: self.step(loss, p, o), lambda p, o: (p, o, jnp.zeros(()), aux), params, opt)
