"""Performance of devices, published for named ones and measured for this machine, and the time that a step takes.

The model is a roofline by layers, and only a model: matrix products and convolutions take as long as their arithmetic
or their memory traffic, whichever is longer, and everything else (sines, modulation, biases, derivatives) takes one
pass over their operands and results. On a processor, whose cache holds these, only arithmetic counts. Launch overhead
and collectives are not included, so steps under some ten milliseconds take longer than predicted. Work that is done
only in some steps is charged to every step.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from shapegan_jax.numerics import fast_sin
from shapegan_jax.planning.costs import Cost, flops

MATRIX_SHARE, BANDWIDTH_SHARE = 0.6, 0.8
"""The assumed share of a named device's published peaks that compiled programs reach; not measured."""

PROCESSOR_SHARE = 0.25
"""The share of a processor's best products and sines that a step reaches, whose products are narrower and whose
convolutions are small: `configs/shadegan.py` 0.27 at 32 pixels and 0.25 at 64, on an idle machine of two cores."""

MEMORY_SHARE = 0.9
"""The share of a device's memory that a step may use; the rest is for the driver, the next batch and previews."""


@dataclasses.dataclass(frozen=True)
class Device:
  """`products`: float32 matrix products as jax computes them by default, FLOP/s. `elementwise`: FLOP/s of
  everything else, or None where `bandwidth` [bytes/s] bounds it. `memory` in bytes, None if unknown.
  """

  name: str
  products: float
  bandwidth: float | None
  memory: float | int | None
  elementwise: float | None = None

  def seconds(self, cost: Cost) -> float:
    """The time of a program of this cost on one device."""
    arithmetic = cost.products / self.products
    passing = cost.moved / self.bandwidth if self.bandwidth else 0.0
    between = passing if self.elementwise is None else cost.elementwise / self.elementwise
    return max(arithmetic, passing) + between

  @property
  def limit(self) -> float | None:
    """The bytes that a step may use; None if the memory is unknown."""
    return None if self.memory is None else MEMORY_SHARE * self.memory

  def holds(self, size: float | int) -> bool | None:
    """Whether a step that needs `size` bytes fits; None if the memory is unknown."""
    return None if self.limit is None else size <= self.limit


def _published(name: str, tflops: float | int, terabytes: float, gigabytes: float | int) -> Device:
  return Device(name, MATRIX_SHARE * tflops * 1e12, BANDWIDTH_SHARE * terabytes * 1e12, gigabytes * 1e9)


# jax's default for float32 products is TensorFloat-32 on NVIDIA GPUs from Ampere on, plain float32 before, and one
# bfloat16 pass on TPUs (docs.jax.dev, "Matmul precision"); all peaks are dense ones. NVIDIA's figures are from
# secondary tables, not from its own data sheets.
NAMED = (
  # SXM: TF32 494.7 TFLOP/s (glennklockwood.com/garden/processors/h100); 4.8 TB/s, 141 GB.
  _published("H200", 494.7, 4.8, 141),
  # SXM: TF32 155.9 TFLOP/s (hmc-tech.com/gpu/nvidia-h100-vs-nvidia-a100-sxm-40gb); 1,555 GB/s.
  _published("A100 40GB", 155.9, 1.555, 40),
  # The same with 2,039 GB/s.
  _published("A100 80GB", 155.9, 2.039, 80),
  # Single precision 8.1 TFLOP/s; 320 GB/s, 16 GB.
  _published("T4", 8.1, 0.32, 16),
  # cloud.google.com/tpu/docs/v5e, per chip: bf16 197 TFLOP/s; 819 GB/s, 16 GB.
  _published("TPU v5e", 197, 0.819, 16),
  # cloud.google.com/tpu/docs/v6e, per chip: bf16 918 TFLOP/s; 1,638 GB/s, 32 GB.
  _published("TPU v6e", 918, 1.638, 32),
)


def this_device() -> Device:
  """The machine's first device, by its best results within about a second."""
  device = jax.local_devices()[0]
  name, memory = f"this one ({device.device_kind})", memory_of(device)
  if device.platform == "cpu":
    rows, kernel = jnp.ones((4096, 256)), jnp.ones((256, 256))  # about the number of rows that a step has in flight
    products = _rate(flops(jnp.matmul, rows, kernel).products, jnp.matmul, rows, kernel)
    elementwise = _rate(flops(fast_sin, rows).elementwise, fast_sin, rows)
    return Device(name, PROCESSOR_SHARE * products, None, memory, PROCESSOR_SHARE * elementwise)
  square, many = jnp.ones((8192, 8192)), jnp.ones((1 << 26,))
  products = _rate(flops(jnp.matmul, square, square).products, jnp.matmul, square, square)
  return Device(name, products, _rate(2 * many.nbytes, jnp.negative, many), memory)


def _rate(work: float | int, function: Callable[..., Any], *inputs: Any) -> float:
  """`work` per second of the fastest call."""
  return work / _best_of(jax.jit(function), *inputs)


def _best_of(program: Callable[..., Any], *inputs: Any) -> float:
  """The shortest time of a call, within half a second of them."""
  jax.block_until_ready(program(*inputs))
  best, end = float("inf"), time.perf_counter() + 0.5
  while (begun := time.perf_counter()) < end:
    jax.block_until_ready(program(*inputs))
    best = min(best, time.perf_counter() - begun)
  return best


def memory_of(device: jax.Device) -> int | None:
  """The bytes that jax may use on a device: its limit, or the free memory of the machine."""
  if device.platform != "cpu":
    return (device.memory_stats() or {}).get("bytes_limit")
  try:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
  except (OSError, KeyError, ValueError):
    return None
