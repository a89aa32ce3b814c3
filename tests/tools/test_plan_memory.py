"""The memory that the plan names is the memory that a step takes, in a process that does nothing else."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiler_flags import HURRY

ROOT = Path(__file__).parents[2]

# What a step of the largest stage takes beyond what lies there before it, by the system's count of resident pages: the
# state and the batch are there, so their size is added. The first step also loads the program. Blocks above 16 kB are
# given back when they are freed, so that each step takes them anew, except those that fit where compiling has left
# something free: all such places are taken first. What is smaller stays with the process.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**14), "MALLOC_TRIM_THRESHOLD_": str(2**14), "MALLOC_ARENA_MAX": "1"}
MEASURE = """
import ctypes
import os
import sys
import time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # threads have scratch of their own, and meet by chance
import jax
import numpy as np
from shapegan_jax import parallel
from shapegan_jax.programs import abstract_arguments
from shapegan_jax.rng import root_key
from shapegan_jax.settings import read_settings
from shapegan_jax.planning.stages import complete, plan_run

def resident(kind):
  lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
  return 1024 * int(lines[kind].split()[0])

class Counts(ctypes.Structure):  # of mallinfo2
  _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd us fs uord ford keep".split()]

def fill_free_places():
  libc = ctypes.CDLL(None)
  libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
  libc.mallinfo2.restype = Counts
  size = 2**28
  while size >= 2**14:
    mappings = libc.mallinfo2().hblks
    place = libc.malloc(size)
    if libc.mallinfo2().hblks > mappings:  # there was no such place, so that it got pages of its own
      libc.free(place)
      size //= 2
  for place in [libc.malloc(2**13) for _ in range(1024)][::2]:  # but small blocks shall find some
    libc.free(place)

run = plan_run(complete(read_settings(sys.argv[1]))[0], quick=True)
method, mesh = run.method, run.mesh
plan = max(run.stages, key=lambda stage: stage.memory)
key = root_key(0)
state = jax.jit(method.init, out_shardings=parallel.replicated(mesh))(key)
_, like, _, given = abstract_arguments(method, mesh, plan.start)
batch = parallel.put_batch(mesh, jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), like))
given = parallel.put_replicated(mesh, {name: np.float32(x) for name, x in method.plan(plan.start)[1].items()})
lying = sum(x.nbytes for x in jax.tree.leaves((state, batch, given)))

def step(state):
  return jax.block_until_ready(plan.program(state, batch, key, given))[0]

state = step(state)
fill_free_places()
state = step(state)
grown = []
for _ in range(17):  # one of them with the regularisers of every sixteenth step
  time.sleep(0.1)  # the step before may still be giving back its memory
  with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the largest size so far
  before = resident("VmRSS")
  state = step(state)
  grown.append(resident("VmHWM") - before)
print(run.memory, lying + max(grown))  # the system may take back idle pages meanwhile: never too much
"""
ALL = ("graf", "pigan", "gof", "shadegan", "gof_shaded", "stylegan2", "gan2shape")


@pytest.mark.skipif(
  not (os.access("/proc/self/clear_refs", os.W_OK) and hasattr(ctypes.CDLL(None), "mallinfo2")),
  reason="Linux with glibc 2.33 tells what a process has taken",
)
@pytest.mark.parametrize("name", ALL if os.environ.get("THOROUGH") else ["pigan"])
def test_a_smoke_preset_takes_what_the_plan_says(name):
  done = subprocess.run(
    [sys.executable, "-c", MEASURE, f"configs/{name}.py:smoke"],
    cwd=ROOT,
    env={**os.environ, **ENVIRONMENT, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": HURRY},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  planned, measured = map(int, done.stdout.split())
  print(f"{name}: {planned / 1e6:.2f} MB planned, {measured / 1e6:.2f} MB measured")
  assert measured == pytest.approx(planned, rel=0.2)
