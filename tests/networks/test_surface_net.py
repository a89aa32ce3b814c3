"""The surface-tracking network: size, range, and the pieces that are easy to get subtly wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapegan_jax.networks.surface_net import SurfaceNet, _transposed, relative_to_distance, surface_inputs


def test_parameter_count_is_the_published_one(key):
  shapes = jax.eval_shape(SurfaceNet(2 * 9 * 256).init_params, key)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 5_156_816


def test_a_narrow_network_answers_in_the_unit_interval_and_sees_codes_and_pose(key, rng):
  network = SurfaceNet(12, width=32, resolution=16)
  variables = network.init_params(key)
  codes, pose = (jnp.asarray(rng.standard_normal((2, n)), jnp.float32) for n in (12, 2))
  apply = jax.jit(network.apply)
  relative = apply(variables, codes, pose)
  assert relative.shape == (2, 16, 16)
  assert np.all((relative > 0) & (relative < 1))
  assert np.abs(apply(variables, codes, pose + 1) - relative).max() > 1e-4
  assert np.abs(apply(variables, codes + 1, pose) - relative).max() > 1e-4


@pytest.mark.parametrize(("stride", "padding"), [(1, "VALID"), (2, "SAME")])
def test_transposed_convolution_scatters_the_flipped_kernel(key, rng, stride, padding):
  """As published: the output cell stride * i + a - crop gets input i times kernel cell a; ours stores the kernel
  flipped, which is what a checkpoint's reader must do."""
  size = 1 if stride == 1 else 3
  x = rng.standard_normal((1, size, size, 2)).astype(np.float32)
  layer = _transposed(3, stride, padding, "up")
  variables = layer.init(key, jnp.asarray(x))
  kernel = np.asarray(variables["params"]["kernel"])[::-1, ::-1]
  crop = 0 if stride == 1 else 1
  whole = np.zeros((1, (size - 1) * stride + 4, (size - 1) * stride + 4, 3))
  for i in range(size):
    for j in range(size):
      cells = whole[:, i * stride : i * stride + 4, j * stride : j * stride + 4]
      cells += np.einsum("bc,hwco->bhwo", x[:, i, j], kernel)
  end = whole.shape[1] - crop
  np.testing.assert_allclose(layer.apply(variables, jnp.asarray(x)), whole[:, crop:end, crop:end], atol=1e-6)
  assert np.abs(kernel).max() <= 1 / np.sqrt(3 * 16)


def test_tracking_gives_no_gradient_to_the_codes_and_scales_them_as_published():
  frequencies, phases = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])
  yaw, pitch = jnp.array([0.3]), jnp.array([-0.1])
  codes, pose = surface_inputs((frequencies, phases), yaw, pitch)
  np.testing.assert_allclose(codes, [[0.1, 0.2, 0.3, 0.4]], rtol=1e-6)
  # Polar angles are pi/2 - pitch and pi/2 - yaw; the network reads 10 * (polar - pi/2).
  np.testing.assert_allclose(pose, [[1.0, -3.0]], rtol=1e-6)
  gradients = jax.grad(lambda *a: sum(map(jnp.sum, surface_inputs(*a))), (0, 1, 2))((frequencies, phases), yaw, pitch)
  assert all(not np.any(g) for g in jax.tree.leaves(gradients))


def test_distance_is_linear_in_the_map_and_resized_by_means_or_bilinearly(rng):
  relative = rng.uniform(size=(1, 8, 8)).astype(np.float32)
  resize = {"near": 0.88, "far": 1.12}
  down = relative_to_distance(jnp.asarray(relative), **resize, resolution=4)
  np.testing.assert_allclose(down, 0.88 + 0.24 * relative.reshape(1, 4, 2, 4, 2).mean((2, 4)), rtol=1e-6)
  ramp = jnp.broadcast_to(jnp.arange(4.0) / 4, (1, 4, 4))
  up = relative_to_distance(ramp, near=0.0, far=1.0, resolution=8)
  np.testing.assert_allclose(up[0, 0, 1:-1], np.arange(0.25, 3, 0.5) / 4, rtol=1e-6)
