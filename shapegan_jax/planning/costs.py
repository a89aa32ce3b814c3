"""The cost of a program, counted and not timed: floating-point operations from its jaxpr, bytes from its compiled form.

XLA's own count takes the body of a loop once; this one multiplies it by the trip count. It counts the jaxpr before the
compiler simplifies it, including recomputation by `jax.checkpoint`, so the ratio to the count of the same program
without rematerialisation is the price of saving memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr


@dataclasses.dataclass(frozen=True)
class Cost:
  """Floating-point operations: of matrix products and convolutions (2 per multiplication and addition), and of
  elementwise operations (1 each, also for a sine or an exponential). Integers and copies are free.

  `moved` are the bytes that the products and convolutions read and write, each operand and result once.
  """

  products: int = 0
  elementwise: int = 0
  moved: int = dataclasses.field(default=0, compare=False)

  @property
  def total(self) -> int:
    return self.products + self.elementwise

  def __add__(self, other: Cost) -> Cost:
    return Cost(self.products + other.products, self.elementwise + other.elementwise, self.moved + other.moved)

  def times(self, n: int) -> Cost:
    """The cost of n repetitions."""
    return Cost(n * self.products, n * self.elementwise, n * self.moved)


def flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Cost:
  """The cost of `function(*args, **kwargs)`; arguments may be `jax.ShapeDtypeStruct`s.

  Of the branches of a `cond` the most expensive one counts.

  Raises:
    ValueError: the program has a loop of unknown trip count.
  """
  return count(jax.make_jaxpr(lambda *a: function(*a, **kwargs))(*args).jaxpr)


def count(jaxpr: Jaxpr, *, rounds: int | None = None) -> Cost:
  """The cost of a jaxpr (of `jax.stages.Traced`, say), of all devices of its mesh together; see `flops`.

  Dead code, such as unused halves of derivatives, is not counted, since the compiler removes it. `rounds` is the
  assumed trip count of loops for which it is unknown (None: such a loop is an error).
  """
  used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(used, rounds)


def _count(jaxpr: Jaxpr, rounds: int | None) -> Cost:
  total, of = Cost(), functools.partial(_count, rounds=rounds)
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
      total += of(params["jaxpr"].jaxpr).times(params["length"])
    elif name == "shard_map":  # what one device does
      total += of(params["jaxpr"]).times(params["mesh"].size)
    elif name == "cond":
      total += max((of(branch.jaxpr) for branch in params["branches"]), key=lambda cost: cost.total)
    elif name == "while":
      body = of(params["body_jaxpr"].jaxpr)
      if body.total and rounds is None:
        raise ValueError("a while loop's length is not known before it runs; use a scan or a fori_loop")
      total += body.times(rounds or 0)
    elif name == "dot_general":
      total += Cost(products=_dot(equation), moved=_moved(equation))
    elif name == "conv_general_dilated":
      total += Cost(products=_convolution(equation), moved=_moved(equation))
    elif inner := list(_inner(params)):
      total = sum(map(of, inner), total)
    elif name not in _FREE:
      total += Cost(elementwise=_elementwise(equation))
  return total


def _dot(equation: JaxprEqn) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval
  return 2 * equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
  """2 x output x kernel of one output; the zeros of a transposed convolution's dilation are not counted."""
  kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
  one = kernel.size // kernel.shape[numbers.rhs_spec[0]]
  return 2 * equation.outvars[0].aval.size * one // math.prod(equation.params["lhs_dilation"])


def _moved(equation: JaxprEqn) -> int:
  arrays = [v.aval for v in (*equation.invars, *equation.outvars)]
  return sum(aval.size * aval.dtype.itemsize for aval in arrays)


# fmt: off
_FREE = frozenset((
  "argmax", "argmin", "bitcast_convert_type", "broadcast_in_dim", "concatenate", "copy", "copy_p",
  "convert_element_type", "device_put", "dynamic_slice", "dynamic_update_slice", "expand_dims", "gather", "imag",
  "iota", "optimization_barrier", "pad", "real", "reshape", "rev", "select_n", "sharding_constraint", "slice",
  "sort", "split", "squeeze", "stop_gradient", "transpose",
))
# fmt: on
"""Primitives that move data and compute nothing."""


def _elementwise(equation: JaxprEqn) -> int:
  """One operation per output or, if there are more of them (a reduction), per input."""
  outputs = [v.aval for v in equation.outvars if hasattr(v.aval, "dtype")]
  if not any(jax.numpy.issubdtype(aval.dtype, jax.numpy.floating) for aval in outputs):
    return 0
  inputs = [v.aval.size for v in equation.invars if hasattr(v.aval, "size")]
  return max([aval.size for aval in outputs] + inputs)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
  """The jaxprs that a primitive calls: jit, checkpoint, custom derivatives, shard_map."""
  for value in params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      part = getattr(part, "jaxpr", part)  # of a ClosedJaxpr
      if hasattr(part, "eqns"):
        yield part


def collectives(compiled: jax.stages.Compiled) -> Counter[tuple[str, bool]]:
  """The collectives of a program: {(operation, whether inside a loop or branch): count}.

  A collective on several arrays, into which XLA combines those that can wait for each other, counts once.
  """
  found: Counter[tuple[str, bool]] = Counter()
  inside = False
  for line in compiled.as_text().splitlines():
    if line.endswith("{"):
      inside = not line.startswith("ENTRY")
    elif match := _COLLECTIVE.search(line):
      found[match[1], inside] += 1
  return found


_COLLECTIVE = re.compile(
  r" = .* (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
)


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """Memory per device while the program runs, by the compiler's own plan: arguments, results and temporaries.

  Donated arguments are counted once.
  """
  plan = compiled.memory_analysis()
  return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
