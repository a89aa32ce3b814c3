"""The cost of a training step, a picture and a mesh here: time, arithmetic and memory, compared with plain PyTorch.

  python -m benchmarks.speed --output=speed.json
  python -m benchmarks.speed --cases=shadegan32,pigan32 --rounds=5 --torch

A case is one compiled program at published widths (256 wide, 8 layers, 12 + 12 samples, batch 4). Times are medians of
`--rounds` rounds in which all cases, and with `--torch` their PyTorch twins (`pip install torch`), alternate, so that
noise of the machine affects all alike: compare ratios. "model" counts the operations of the mathematics, "executed"
those of the program including recomputation to save memory; "of peak" is model operations per second relative to this
machine's best matrix product, measured between the rounds. "plan" is the compiler's memory plan; the memory ratio
compares the growth of a separate process, ours over PyTorch's. "again" is the compile time of a second start, which
finds the program on disk.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.speed_cases import BATCH, CASES, Case
from shapegan_jax.files import aside
from shapegan_jax.planning.costs import Cost, peak_bytes

_CASES = flags.DEFINE_list("cases", [], "Names of cases; empty: all.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.")
_TORCH = flags.DEFINE_bool("torch", False, "Also time the PyTorch twins of the training steps.")
_OUTPUT = flags.DEFINE_string("output", None, "Also write the numbers as JSON.")
_MEMORY_OF = flags.DEFINE_string("memory_of", None, "Run this contender (CASE or CASE:torch) once; print its growth.")


@dataclasses.dataclass
class Contender:
  """A program to be timed."""

  name: str
  run: Callable[[], Any]
  numbers: dict[str, Any]
  seconds: list[float] = dataclasses.field(default_factory=list)


def ours(name: str) -> Contender:
  """A case, compiled."""
  case = CASES[name]()
  compiled, starts = _compiled(case)
  executed, model = case.executed(), case.model()
  numbers = {
    "starts": starts,
    "model": dataclasses.asdict(model),
    "executed": dataclasses.asdict(executed),
    "planned_bytes": peak_bytes(compiled),
  }
  return Contender(name, lambda: jax.block_until_ready(compiled(*case.inputs)), numbers)


def _compiled(case: Case) -> tuple[jax.stages.Compiled, list[dict[str, float]]]:
  """(the program, compile seconds of a first start and of a second one, which finds it on disk)."""
  programs, starts = [], []
  for _ in range(2):
    jax.clear_caches()
    begun = time.perf_counter()
    lowered = jax.jit(case.function).lower(*case.inputs)
    traced = time.perf_counter()
    programs.append(lowered.compile())
    starts.append({"trace": traced - begun, "compile": time.perf_counter() - traced})
  return programs[0], starts


def twin(name: str) -> Contender:
  """The PyTorch twin of a case."""
  import torch

  from benchmarks.torch_twin import Step

  settings = CASES[name]().twin
  if settings is None:
    raise app.UsageError(f"{name} has no PyTorch twin")
  step = Step(**settings)
  real = 2 * torch.rand(BATCH, 3, settings["resolution"], settings["resolution"]) - 1
  return Contender(f"{name}:torch", lambda: step(real), {})


def matmul_peak() -> float:
  """Operations per second of a large float32 matrix product: the best of ten."""
  a = jnp.ones((2048, 2048))
  product = jax.jit(jnp.matmul)
  product(a, a).block_until_ready()
  seconds = []
  for _ in range(10):
    begun = time.perf_counter()
    product(a, a).block_until_ready()
    seconds.append(time.perf_counter() - begun)
  return 2 * 2048**3 / min(seconds)


def grown(contender: str) -> int:
  """Peak growth in bytes of a separate process when the contender runs (after it is built). Linux only."""
  command = [sys.executable, "-m", "benchmarks.speed", f"--memory_of={contender}"]
  return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _print_growth(contender: str) -> None:
  """Two steps: the first may also allocate the optimiser's moments."""
  name, _, kind = contender.partition(":")
  built = twin(name) if kind else ours(name)
  Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which is that of compiling
  before = _resident("VmRSS")
  built.run(), built.run()
  print(_resident("VmHWM") - before)


def _resident(kind: str) -> int:
  """Bytes of memory pages: VmRSS now, VmHWM at most."""
  lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
  return 1024 * int(lines[kind].split()[0])


def report(contenders: list[Contender], peak: float) -> str:
  """A Markdown table."""
  by_name = {contender.name: contender.numbers for contender in contenders}
  lines = [
    "| case | time | GFLOP model | executed / model | of peak | plan MB | trace | compile | again "
    "| PyTorch | ratio | memory ratio |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
  ]
  for name, numbers in by_name.items():
    if ":" in name:
      continue
    model, executed = (Cost(**numbers[kind]).products for kind in ("model", "executed"))
    other = by_name.get(f"{name}:torch")
    cells = [
      name,
      f"{numbers['seconds']:.2f} s",
      f"{model / 1e9:.0f}",
      f"{executed / model:.2f}",
      f"{model / numbers['seconds'] / peak:.0%}",
      f"{numbers['planned_bytes'] / 1e6:.0f}",
      f"{numbers['starts'][0]['trace']:.0f} s",
      f"{numbers['starts'][0]['compile']:.0f} s",
      f"{numbers['starts'][1]['compile']:.1f} s",
      f"{other['seconds']:.2f} s" if other else "",
      f"{numbers['torch_ratio']:.2f}" if other else "",
      f"{numbers['grown_bytes'] / max(other['grown_bytes'], 1):.2f}" if other else "",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  names = _CASES.value or list(CASES)
  unknown = sorted(set(names) - set(CASES))
  if unknown:
    raise app.UsageError(f"--cases: {unknown[0]!r} is not one of {', '.join(CASES)}")
  # jax opens its compilation cache once per process; this one is empty.
  with tempfile.TemporaryDirectory() as cache:
    jax.config.update("jax_compilation_cache_dir", cache)
    if _MEMORY_OF.value:
      _print_growth(_MEMORY_OF.value)
    else:
      _compare(names)


def _compare(names: list[str]) -> None:
  """Time all cases alternately and print the table."""
  contenders = []
  for name in names:
    contenders.append(ours(name))
    if _TORCH.value and CASES[name]().twin:
      contenders.append(twin(name))
  peaks = []
  for turn in range(_ROUNDS.value + 1):
    for contender in contenders:
      begun = time.perf_counter()
      contender.run()
      if turn:  # the first warms up
        contender.seconds.append(time.perf_counter() - begun)
    peaks.append(matmul_peak())
    print(f"round {turn} of {_ROUNDS.value}", file=sys.stderr)
  for contender in contenders:
    contender.numbers["seconds"] = statistics.median(contender.seconds)
    contender.numbers["all_seconds"] = contender.seconds
  by_name = {contender.name: contender for contender in contenders}
  for name, contender in by_name.items():
    other = by_name.get(f"{name}:torch")
    if other:
      pairs = zip(other.seconds, contender.seconds, strict=True)
      contender.numbers["torch_ratio"] = statistics.median(theirs / own for theirs, own in pairs)
      contender.numbers["grown_bytes"], other.numbers["grown_bytes"] = grown(name), grown(other.name)
  print(report(contenders, max(peaks)))
  print(
    f"\nmatrix product: {max(peaks) / 1e9:.0f} GFLOP/s at best; {jax.devices()[0].device_kind}, jax {jax.__version__}"
  )
  if _OUTPUT.value:
    numbers = {contender.name: contender.numbers for contender in contenders} | {"matmul_peak": max(peaks)}
    with aside(_OUTPUT.value) as place:
      place.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
