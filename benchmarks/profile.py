"""Where a case spends its time: seconds by network and kind of operation, from the profiler's trace.

  python -m benchmarks.profile --case=pigan32
  python -m benchmarks.profile --case=shadegan32 --trace=/tmp/trace    # keep it, for TensorBoard or Perfetto

Time is summed over the threads that run operations, so a step of 4 s on two cores has 8 s in total; what is missing is
idle time, or operations that split their work between threads and are counted once. Backward passes are attributed to
their networks; "(none)" belongs to no network: rendering, optimisers, averages.
"""

from __future__ import annotations

import collections
import re
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks.speed_cases import CASES

_CASE = flags.DEFINE_enum("case", "pigan32", list(CASES), "Name of the case.")
_TRACE = flags.DEFINE_string("trace", None, "Folder in which the profiler's trace is kept.")

# %name = shape opcode(...), metadata={op_name="jit(f)/transpose(jvp(Network))/layer/dot_general" ...}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")
_ORIGIN = re.compile(r'op_name="([^"]*)"')
_KINDS = {"conv_general_dilated": "convolutions", "dot_general": "matrix products"}


def kinds(program: str) -> dict[str, tuple[str, str]]:
  """Instruction -> (network, kind of operation), from the text of a compiled program; loops and calls are left out,
  since what they run is there itself."""
  found = {}
  for line in program.splitlines():
    match = _INSTRUCTION.match(line)
    if match and match[2] not in ("while", "call", "conditional"):
      origin = "".join(_ORIGIN.findall(line))
      network = re.search(r"\b[A-Z][a-z]\w+", origin)
      kind = _KINDS.get(origin.split("/")[-1], "elementwise and others")
      found[match[1]] = (network[0] if network else "(none)", kind)
  return found


def seconds(trace: Path, of: dict[str, tuple[str, str]]) -> tuple[collections.Counter, collections.Counter]:
  """((network, kind) -> seconds over all threads, and the same of calls) in the newest trace of this folder."""
  newest = max(trace.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
  spent: collections.Counter = collections.Counter()
  calls: collections.Counter = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
    for line in plane.lines:
      for event in line.events:
        what = of.get(dict(event.stats).get("hlo_op", ""))
        if what:
          spent[what] += event.duration_ns / 1e9
          calls[what] += 1
  return spent, calls


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  logging.set_verbosity(logging.WARNING)
  case = CASES[_CASE.value]()
  program = jax.jit(case.function).lower(*case.inputs).compile()
  jax.block_until_ready(program(*case.inputs))  # the first run also loads it
  with tempfile.TemporaryDirectory() as aside:
    trace = Path(_TRACE.value or aside)
    with jax.profiler.trace(str(trace)):
      begun = time.perf_counter()
      jax.block_until_ready(program(*case.inputs))
      taken = time.perf_counter() - begun
    spent, calls = seconds(trace, kinds(program.as_text()))
  if not spent:
    raise app.UsageError("the trace names no operations of the program: the profiler of this device writes others")
  total = sum(spent.values())
  print("| network | operations | seconds | share | calls |\n|---|---|---|---|---|")
  for (network, kind), value in spent.most_common():
    if value > 0.005 * total:
      print(f"| {network} | {kind} | {value:.2f} | {value / total:.0%} | {calls[network, kind]} |")
  print(f"\n{_CASE.value}: {taken:.2f} s with the profiler, {total:.2f} s in operations over all threads")


if __name__ == "__main__":
  app.run(main)
