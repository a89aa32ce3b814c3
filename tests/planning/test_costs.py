"""Counted operations against closed forms, loops and recomputation included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from shapegan_jax.planning.costs import Cost, count, flops, peak_bytes


def test_a_product_costs_two_operations_a_term():
  a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 7))
  assert flops(jnp.matmul, a, b) == Cost(products=2 * 3 * 4 * 5 * 7)
  gradient = flops(jax.value_and_grad(lambda a, b: jnp.matmul(a, b).sum(), argnums=(0, 1)), a, b)
  assert gradient.products == 3 * 2 * 3 * 4 * 5 * 7


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_costs_its_kernel_at_every_output(groups):
  image, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4 // groups, 6))

  def convolve(image, kernel):
    return jax.lax.conv_general_dilated(
      image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )

  forward = 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4 // groups)
  assert flops(convolve, image, kernel).products == forward
  both = jax.vjp(convolve, image, kernel)[1]
  # The gradients are as dear as the convolution, to the rows that padding adds.
  assert 2 * forward * 0.9 < flops(both, jnp.zeros((2, 4, 4, 6))).products < 2 * forward * 1.4


def test_loops_count_as_often_as_they_run():
  w = jnp.zeros((4, 4))
  once = 2 * 4 * 4 * 4

  def looped(w):
    x, _ = jax.lax.scan(lambda x, _: (x @ w, None), w, length=10)
    return jax.lax.fori_loop(0, 5, lambda _, x: jax.jit(jnp.matmul)(x, w), x)

  assert flops(looped, w).products == 15 * once
  with pytest.raises(ValueError, match="not known before"):
    flops(lambda w: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ w, w), w)


def test_a_loop_of_unknown_length_runs_as_often_as_one_says():
  w = jnp.zeros((4, 4))
  jaxpr = jax.make_jaxpr(lambda w: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ w, w))(w).jaxpr
  assert count(jaxpr, rounds=7) == Cost(products=7 * 2 * 4**3)


def test_what_every_device_does_is_counted_for_all():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec("data")
  shared = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)
  assert flops(shared, jnp.zeros((6, 5))) == Cost(products=2 * (2 * 3 * 3 * 5))


def test_products_move_their_operands_and_results():
  a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
  assert flops(lambda a, b: jnp.sin(a) @ b, a, b).moved == 4 * (3 * 4 + 4 * 5 + 3 * 5)
  image, kernel = jnp.zeros((1, 8, 8, 2)), jnp.zeros((3, 3, 2, 6))
  dimensions = ("NHWC", "HWIO", "NHWC")
  convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=dimensions)  # noqa: E731
  assert flops(convolve, image, kernel).moved == 4 * (image.size + kernel.size + 8 * 8 * 6)
  assert flops(lambda a: jax.lax.fori_loop(0, 5, lambda _, x: x @ x, a), jnp.zeros((2, 2))).moved == 5 * 4 * 12


def test_the_dearest_branch_counts():
  w = jnp.zeros((4, 4))
  branches = [lambda w: w, lambda w: w @ w, lambda w: w @ w @ w]
  assert flops(lambda i, w: jax.lax.switch(i, branches, w), 0, w).products == 2 * 2 * 4**3


def test_what_leads_to_no_result_is_free():
  w, x = jnp.zeros((4, 4)), jnp.zeros((4, 4))

  def of_one(w, x):
    _, pullback = jax.vjp(jnp.matmul, w, x)
    return pullback(jnp.ones((4, 4)))[0]

  assert flops(of_one, w, x).products == 2 * 4**3  # neither the product itself nor its derivative in x
  assert flops(jax.jit(lambda w: (w @ w, w)[1]), w) == Cost()


def test_recomputation_is_seen():
  w = jnp.zeros((4, 4))

  def chain(w):
    return jnp.sum(jnp.sin(jnp.sin(w @ w) @ w))

  plain, again = flops(jax.value_and_grad(chain), w), flops(jax.value_and_grad(jax.checkpoint(chain)), w)
  assert again.products > plain.products
  assert flops(jnp.sin, w) == Cost(elementwise=16)
  assert flops(lambda w: w.T.reshape(-1)[::2], w) == Cost()
  assert flops(jnp.sum, w) == Cost(elementwise=16)
  assert flops(lambda w: w + w, jnp.zeros(3, jnp.int32)) == Cost()


def test_memory_holds_arguments_results_and_what_is_between():
  @jax.jit
  def grow(x):
    square = jnp.sin(x[None] * x[:, None])
    return jnp.sum(square @ square, 0)

  needed = peak_bytes(grow.lower(jax.ShapeDtypeStruct((1000,), jnp.float32)).compile())
  assert 4e6 < needed < 1.3e7
