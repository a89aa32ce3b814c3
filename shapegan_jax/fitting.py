"""Fitting of networks by regression: depth networks and encoders that are trained on generated pictures.

The third, small engine beside the adversarial and the staged one: Adam on a loss of batches that are a function of the
step alone, so that an interrupted run resumes from its newest checkpoint exactly as it would have continued.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from shapegan_jax.checkpoints import Checkpoints, claim_workdir
from shapegan_jax.errors import UserError
from shapegan_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """`steps` updates by Adam; the rate rises over `warmup` steps and falls to 0 as a cosine."""

  steps: int = 2000
  rate: float = 1e-3
  warmup: int = 50
  checkpoint_every: int = 200

  def schedule(self) -> optax.Schedule:
    """Step -> learning rate."""
    return optax.warmup_cosine_decay_schedule(0.0, self.rate, min(self.warmup, self.steps // 2), max(self.steps, 1))


def fit(
  loss: Callable[[PyTree, PyTree], Array],
  params: PyTree,
  batch_of: Callable[[int], PyTree],
  config: FitConfig,
  *,
  workdir: Path | None = None,
  identity: dict[str, Any] | None = None,
  label: str = "fitting",
) -> tuple[PyTree, float]:
  """(fitted parameters, mean loss of the last tenth of the steps).

  Args:
    loss: (params, batch) -> scalar; it is jitted.
    params: the initial parameters.
    batch_of: step -> batch (a pytree of arrays), the same for the same step.
    config: steps and learning rate.
    workdir: where checkpoints go; a fit found there is resumed. None: nothing is saved.
    identity: plain settings that identify the network and its data; a workdir of another identity is refused.
    label: of the progress bar.

  Raises:
    UserError: the workdir belongs to another fit, or the loss is no longer finite.
  """
  optimizer = optax.adam(config.schedule())

  @jax.jit
  def update(state: PyTree, batch: PyTree) -> tuple[PyTree, Array]:
    value, gradient = jax.value_and_grad(loss)(state["params"], batch)
    updates, moments = optimizer.update(gradient, state["optimizer"])
    late = state["step"] >= config.steps - max(1, config.steps // 10)
    return {
      "params": optax.apply_updates(state["params"], updates),
      "optimizer": moments,
      "step": state["step"] + 1,
      "late_loss": state["late_loss"] + jnp.where(late, value, 0.0),
    }, value

  zero = jnp.zeros((), jnp.int32)
  state = {"params": params, "optimizer": optimizer.init(params), "step": zero, "late_loss": jnp.zeros(())}
  settings = {**dataclasses.asdict(config), **(identity or {})}
  if workdir is not None:
    claim_workdir(workdir, settings)
  with contextlib.nullcontext() if workdir is None else Checkpoints(workdir, keep=1) as saver:
    if saver is not None and saver.latest_step() is not None:
      state = saver.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state))
    first = int(state["step"])
    bar = tqdm(range(first, config.steps), desc=label, initial=first, total=config.steps, delay=1, leave=False)
    for step in bar:
      state, value = update(state, batch_of(step))
      if step + 1 == config.steps or (step + 1) % config.checkpoint_every == 0:
        if not bool(jnp.isfinite(value)):
          raise UserError(f"{label}: the loss is no longer finite at step {step + 1}; lower the learning rate")
        bar.set_postfix(loss=f"{float(value):.4f}")
        if saver is not None:
          saver.save(step + 1, state)
  return state["params"], float(state["late_loss"]) / max(1, config.steps // 10)
