"""What a training step, a picture and a mesh cost here: time, arithmetic and memory, beside plain PyTorch.

  python -m benchmarks.speed --output=speed.json
  python -m benchmarks.speed --cases=shadegan32,pigan32 --rounds=5 --torch

A case is one compiled program at published widths (256 wide, 8 layers, 12 + 12 samples, batch 4). Times are medians of
`--rounds` rounds in which all cases, and with `--torch` their PyTorch twins (`pip install torch`), take turns, so that
a noisy machine treats them alike: read the ratios. "model" counts the operations of the mathematics, "executed" those
of the program with what it computes twice to save memory; "of peak" is model operations over time over this machine's
best matrix product, measured between the rounds. Memory of a program is the compiler's plan, of PyTorch what a process
that does nothing else grows by; "ours grows" is the same measure of ours.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from configs import gof, pigan, shadegan
from shapegan_jax.costs import Cost, flops, peak_bytes
from shapegan_jax.files import aside
from shapegan_jax.methods.base import build
from shapegan_jax.rng import root_key

_CASES = flags.DEFINE_list("cases", [], "Names of cases; empty: all.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.")
_TORCH = flags.DEFINE_bool("torch", False, "Also time the PyTorch twins of the training steps.")
_OUTPUT = flags.DEFINE_string("output", None, "Also write the numbers as JSON.")
_MEMORY_OF = flags.DEFINE_string("memory_of", None, "Run this contender (CASE or CASE:torch) once; print its growth.")

BATCH = 4


@dataclasses.dataclass(frozen=True)
class Case:
  """A program `function(*inputs)`; `plain` is the same without rematerialisation, whose operations are the model's."""

  function: Callable[..., Any]
  plain: Callable[..., Any]
  inputs: tuple[Any, ...]
  twin: dict[str, Any] | None = None  # arguments of `torch_twin.Step`


def training(module: Any, resolution: int) -> Case:
  """One update of a published config at batch 4."""
  config = module.get_config("bfm")
  config.stages.update(
    start=(0,),
    resolution=(resolution,),
    batch_size=(BATCH,),
    samples=(12,) if module is not gof else (9,),
    topk_group=(0,),
    gradient_scale=(1.0,),
    generator_rate=(2e-5,),
    discriminator_rate=(2e-4,),
    fade_first=False,
  )
  method, plain = build(config.to_dict()), build(_unchunked(config).to_dict())
  (stage, anneals), state = method.plan(0), method.init(root_key(0))
  anneals = {name: jnp.float32(value) for name, value in anneals.items()}
  real = {
    "image": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BATCH, resolution, resolution, 3)), jnp.float32)
  }
  twin = None if module is gof else {"shaded": module is shadegan, "resolution": resolution, "batch": BATCH}

  def update(method: Any) -> Callable[..., Any]:
    return lambda state, real, key, anneals: method.update(state, real, key, anneals, stage=stage)

  return Case(update(method), update(plain), (state, real, root_key(1), anneals), twin)


def picture(resolution: int) -> Case:
  """One picture of ShadeGAN with albedo, normals and depth, 24 samples a ray and pass."""
  config = shadegan.get_config("bfm")
  method, plain = build(config.to_dict()), build(_unchunked(config).to_dict())
  params = method.init_generator(root_key(0))
  latents, cameras = method.sample_latents(root_key(1), 1), method.sample_cameras(None, 1)

  def render(method: Any) -> Callable[..., Any]:
    return lambda params, latents: method.render(params, latents, cameras, resolution=resolution)

  return Case(render(method), render(plain), (params, latents))


def grid(points: int = 65_536) -> Case:
  """The density of a slab of a mesh's grid."""
  method = build(pigan.get_config("bfm").to_dict())
  params = method.init_generator(root_key(0))
  where = jnp.asarray(np.random.default_rng(0).uniform(-0.12, 0.12, (1, points, 3)), jnp.float32)

  def query(params: Any, latents: Any, where: Any) -> Any:
    return method.query(params, latents, where).raw

  return Case(query, query, (params, method.sample_latents(root_key(1), 1), where))


def _unchunked(config: Any) -> Any:
  config = config.copy_and_resolve_references()
  config.rendering.chunk_points = 2**40
  return config


CASES: dict[str, Callable[[], Case]] = {
  "pigan32": lambda: training(pigan, 32),
  "pigan64": lambda: training(pigan, 64),
  "shadegan32": lambda: training(shadegan, 32),
  "shadegan64": lambda: training(shadegan, 64),
  "gof32": lambda: training(gof, 32),
  "picture128": lambda: picture(128),
  "picture256": lambda: picture(256),
  "grid65k": grid,
}


@dataclasses.dataclass
class Contender:
  """Something to be timed."""

  name: str
  run: Callable[[], Any]
  numbers: dict[str, Any]
  seconds: list[float] = dataclasses.field(default_factory=list)


def ours(name: str) -> Contender:
  """A case, compiled."""
  case = CASES[name]()
  begun = time.perf_counter()
  compiled = jax.jit(case.function).lower(*case.inputs).compile()
  compile_seconds = time.perf_counter() - begun
  executed, model = flops(case.function, *case.inputs), flops(case.plain, *case.inputs)
  numbers = {
    "compile_seconds": compile_seconds,
    "model": dataclasses.asdict(model),
    "executed": dataclasses.asdict(executed),
    "planned_bytes": peak_bytes(compiled),
  }
  return Contender(name, lambda: jax.block_until_ready(compiled(*case.inputs)), numbers)


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
  """Bytes by which a process of its own grows when the contender runs (after it was built), at its largest."""
  command = [sys.executable, "-m", "benchmarks.speed", f"--memory_of={contender}"]
  return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _print_growth(contender: str) -> None:
  name, _, kind = contender.partition(":")
  built = twin(name) if kind else ours(name)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  built.run()
  print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def report(contenders: list[Contender], peak: float) -> str:
  """A Markdown table."""
  by_name = {contender.name: contender.numbers for contender in contenders}
  lines = [
    "| case | time | GFLOP model | executed / model | of peak | plan MB | compile | PyTorch | ratio | memory ratio |",
    "|---|---|---|---|---|---|---|---|---|---|",
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
      f"{numbers['compile_seconds']:.0f} s",
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
  if _MEMORY_OF.value:
    _print_growth(_MEMORY_OF.value)
    return
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
