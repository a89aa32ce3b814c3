"""A self-test of ten seconds: arithmetic, a picture, training steps, writing."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from shapegan_jax import parallel
from shapegan_jax.data.pipeline import batch_spec
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build
from shapegan_jax.rng import root_key
from shapegan_jax.types import PyTree, Scene

TINY: dict[str, Any] = {
  "method": "pigan",
  "mapping": {"latent_dim": 8, "hidden_dim": 16, "n_hidden": 1},
  "field": {"width": 16, "depth": 2, "view_condition": False},
  "discriminator": {"kind": "strided", "width_multiplier": 0.05, "max_resolution": 16},
  "stages": {
    **{"start": (0,), "resolution": (16,), "batch_size": (4,), "samples": (6,), "topk_group": (0,)},
    **{"generator_rate": (1e-3,), "discriminator_rate": (1e-3,), "gradient_scale": (1.0,)},
    **{"fade_steps": 0, "fade_first": False},
  },
  "rendering": {"fine": False, "background": 1.0, "density_noise_steps": 0},
  "objectives": {"pose": 0.0, "latent": 0.0, "shared_fakes": True},
}
"""pi-GAN, as small as it gets; every default is the method's own."""


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For a processor: optimising tiny programs is not worth XLA's time."""


class Failed(Exception):
  """A check found something wrong: one line."""


def run(folders: Sequence[Path], checks: Sequence[tuple[str, Callable[[], None]]] | None = None) -> Iterator[str]:
  """Run the checks (None: all), yielding the name of each before it starts. `folders` must be writable.

  Raises:
    Failed: of the first failing check, with its name and the reason.
  """
  tiny = Tiny()
  standard = [
    ("arithmetic agrees with numpy", arithmetic),
    ("a picture is rendered", tiny.picture),
    ("two training steps", tiny.training),
    *((f"{folder} can be written to", functools.partial(writing, folder)) for folder in folders),
  ]
  for name, check in standard if checks is None else checks:
    yield name
    try:
      check()
    except Failed as failure:
      raise Failed(f"self-test: {name}: {failure}") from failure
    except Exception as error:  # anything that a broken installation or driver may raise
      reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
      raise Failed(f"self-test: {name}: {type(error).__name__}: {reason[:300]}") from error


def arithmetic() -> None:
  """Products, sines and sums on every device, against numpy in double precision."""
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 64, 64))

  def compute(a: Any, b: Any) -> dict[str, Any]:
    product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return {"matrix product": product, "sine": jnp.sin(10 * a), "sum": jnp.sum(jnp.exp(a), -1)}

  expected = {"matrix product": a @ b, "sine": np.sin(10 * a), "sum": np.exp(a).sum(-1)}
  for device in jax.local_devices():
    found = jax.jit(compute)(*(jax.device_put(x.astype(np.float32), device) for x in (a, b)))
    for name, values in found.items():
      error = np.abs(np.asarray(values, np.float64) - expected[name]).max() / np.abs(expected[name]).max()
      if not error < 1e-4:
        raise Failed(f"the {name} on {device} is off by {error:.1e} (relative)")


class Tiny:
  """An untrained method, replicated on all devices. Created on first use."""

  @functools.cached_property
  def method(self) -> Method:
    return build(TINY)

  @functools.cached_property
  def mesh(self) -> Mesh:
    return parallel.mesh_for(self.method.stages[:1])

  @functools.cached_property
  def state(self) -> PyTree:
    return self._program(self.method.init, out_shardings=parallel.replicated(self.mesh))(root_key(0))

  @staticmethod
  def _program(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=QUICK if jax.default_backend() == "cpu" else None, **settings)

  def picture(self) -> None:
    """A picture of the field, with its normals."""
    cameras, latents = self.method.sample_cameras(None, 1), jnp.ones((1, TINY["mapping"]["latent_dim"]))
    render = self._program(lambda params, scene: self.method.render(params, scene, resolution=16))
    rendering = jax.device_get(render(self.method.params_of(self.state), Scene(latents, cameras)))
    for name, values in vars(rendering).items():
      if isinstance(values, np.ndarray) and not np.isfinite(values).all():
        raise Failed(f"its {name} has non-finite values")
    if not 0 <= rendering.rgb.min() < rendering.rgb.max() <= 1:
      raise Failed(f"its colours are {rendering.rgb.min():.3g} to {rendering.rgb.max():.3g}, not within [0, 1]")

  def training(self) -> None:
    """Two updates of generator and discriminator on noise."""
    method, (stage, plan) = self.method, self.method.plan(0)
    noise, spec = np.random.default_rng(0), batch_spec(stage)
    batch = {name: noise.uniform(-1, 1, shape).astype(dtype) for name, (shape, dtype) in spec.items()}
    batch = parallel.put_batch(self.mesh, batch)
    key, anneals = parallel.put_replicated(self.mesh, (0, {name: np.float32(value) for name, value in plan.items()}))
    update = self._program(
      lambda state, seed: method.update(state, batch, jax.random.key(seed), anneals, stage=stage),
      out_shardings=parallel.replicated(self.mesh),
    )
    state = self.state
    with jax.set_mesh(self.mesh):
      for _ in range(2):
        state, metrics = update(state, key)
    before, after, metrics = jax.device_get(
      (method.params_of(self.state, ema=False), method.params_of(state, ema=False), metrics)
    )
    for name, value in metrics.items():
      if not np.isfinite(value):
        raise Failed(f"{name} is {value}")
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(after)):
      raise Failed("a parameter of the generator is not finite")
    if all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True)):
      raise Failed("the generator did not change")


def writing(folder: Path) -> None:
  """A file can be created in the folder, or in its nearest existing parent."""
  nearest = folder.absolute()
  while not nearest.exists():
    nearest = nearest.parent
  try:
    with tempfile.NamedTemporaryFile(dir=nearest) as file:
      file.write(b"x" * 4096)
      file.flush()
      os.fsync(file.fileno())
  except OSError as error:
    raise Failed(f"{error.strerror or error} ({nearest})") from error
