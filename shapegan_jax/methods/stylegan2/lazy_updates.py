"""Adam with lazy regularisation: penalties that are applied every few steps only (StyleGAN2, section 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from shapegan_jax.types import PyTree

Aux = TypeVar("Aux")
Loss = Callable[[PyTree], tuple[Array, Aux]]
"""Parameters -> (loss [], auxiliary output)."""


def lazy_adam(b1: float, b2: float, every: int) -> tuple[optax.GradientTransformation, float]:
  """(Adam without its learning rate, the factor of the learning rate).

  A penalty with its own update every k steps makes k + 1 updates out of k. Learning rate and decays are corrected by
  c = k / (k + 1), which keeps the step length and decay per training step. `every` = 0: there is no penalty.
  """
  c = every / (every + 1) if every else 1.0
  return optax.scale_by_adam(b1=b1**c, b2=b2**c, eps=1e-8), c


@dataclasses.dataclass(frozen=True)
class Descent:
  """The updates of one network by `lazy_adam`."""

  adam: optax.GradientTransformation
  factor: float
  rate: Array

  def step(self, loss: Loss[Aux], params: PyTree, opt: PyTree) -> tuple[PyTree, PyTree, Array, Aux]:
    """(parameters, moments, loss, auxiliary output) after an update."""
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt = self.adam.update(grads, opt)
    return jax.tree.map(lambda p, u: p - self.factor * self.rate * u, params, updates), opt, value, aux

  def step_if(
    self, due: Array, loss: Loss[Aux], params: PyTree, opt: PyTree, aux: Aux
  ) -> tuple[PyTree, PyTree, Array, Aux]:
    """`step` if `due`; otherwise nothing is computed, the loss is 0 and `aux` is returned."""
    return jax.lax.cond(due, lambda p, o: self.step(loss, p, o), lambda p, o: (p, o, jnp.zeros(()), aux), params, opt)
