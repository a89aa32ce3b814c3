"""What programs of published size compute and hold, counted: a change that makes them slower fails here, untimed.

Bounds are what was counted when they were set, and a twentieth.
"""

from __future__ import annotations

import os

import jax
import pytest

from benchmarks.speed_cases import CASES
from shapegan_jax.planning.costs import peak_bytes

# {case: (products computed over those of the mathematics, the same of what is done number by number, MB)}
BOUNDS = {
  "pigan32": (1.20, 1.47, 515),
  "shadegan32": (1.24, 1.47, 565),
  "gof32": (1.24, 1.49, 515),
}
ALWAYS = ("pigan32",)


@pytest.mark.parametrize("name", BOUNDS if os.environ.get("THOROUGH") else ALWAYS)
def test_a_step_computes_little_twice_and_stays_small(name):
  case = CASES[name]()
  products, numbers, megabytes = BOUNDS[name]
  executed, model = case.executed(), case.model()
  assert executed.products / model.products < products
  assert executed.elementwise / model.elementwise < numbers
  program = jax.jit(case.function).lower(*case.inputs).compile()
  assert peak_bytes(program) / 1e6 < megabytes
