"""A convolution is what XLA's is, and so are its derivatives, in every form that it takes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks.layers import Conv

CASES = {
  "1x1": (1, 1, 0, 6),
  "1x1 every other pixel": (1, 2, 0, 6),
  "whole picture": (4, 1, 0, 4),
  "3x3": (3, 1, 1, 6),
  "5x5": (5, 1, 2, 6),
  "3x3 halved": (3, 2, 1, 6),
  "3x3 halved, odd": (3, 2, 1, 7),
  "4x4 halved": (4, 2, 1, 6),
  "5x5 halved": (5, 2, 2, 6),
}


def reference(x, kernel, stride, padding):
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), ((padding,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize("case", CASES)
def test_every_form_is_the_same_convolution(case, rng):
  size, stride, padding, side = CASES[case]
  x = jnp.asarray(rng.normal(size=(2, side, side, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(size, size, 3, 4)), jnp.float32)
  conv = Conv(3, 4, size, stride, padding, use_bias=False)

  def penalised(convolve):
    """A value, its gradients, and those of the gradient's square, as R1 has them."""

    def loss(x, kernel):
      return jnp.sum(jnp.sin(convolve(x, kernel)))

    def penalty(x, kernel):
      return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

    return jax.jit(lambda x, kernel: (convolve(x, kernel), *(jax.grad(f, (0, 1))(x, kernel) for f in (loss, penalty))))

  ours = penalised(lambda x, kernel: conv.apply({"params": {"kernel": kernel}}, x))(x, kernel)
  theirs = penalised(lambda x, kernel: reference(x, kernel, stride, padding))(x, kernel)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))
