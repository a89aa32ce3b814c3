"""Weight files of the FID's InceptionV3: what is no such file is refused by a reason."""

import numpy as np
import pytest
import torch_writer

from shapegan_jax.convert.inception import inception_params, inception_slots, read_inception
from shapegan_jax.convert.pickles import Unreadable
from shapegan_jax.errors import UserError


@pytest.fixture(scope="module")
def tensors():
  """All tensors, each one number seen everywhere: they take no memory."""
  values = {"weight": 0.5, "bias": 0.25, "running_mean": 2.0, "running_var": 4.0 - 1e-3}
  return {
    slot.name: np.broadcast_to(np.float32(values[slot.name.rsplit(".", 1)[1]]), slot.shape)
    for slot in inception_slots()
  }


def test_normalisations_are_folded_into_the_convolutions(tensors):
  params = inception_params(tensors | {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)})
  assert len(params) == 95
  layer = params["Mixed_7c.branch3x3_2a"]  # weight 0.5 times scale 0.5 / sqrt(4); bias 0.25 - 2 * 0.25
  assert layer["kernel"].shape == (1, 3, 384, 384)
  np.testing.assert_allclose(layer["kernel"], 0.125, rtol=1e-6)
  np.testing.assert_allclose(layer["bias"], -0.25, rtol=1e-6)
  assert params["fc"]["kernel"].shape == (2048, 1008)


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"fc.bias": None}, r"lacks the tensor fc.bias of shape \(1008,\)"),
    ({"fc.weight": np.zeros((1000, 2048), np.float32)}, r"fc.weight has shape \(1000, 2048\)"),
    ({"extra": np.zeros(3, np.float32)}, "extra that is not expected"),
    ({"AuxLogits.fc.bias": np.zeros(3, np.float32)}, "torchvision's InceptionV3, not the one of the FID"),
  ],
  ids=["missing", "classes", "extra", "torchvision"],
)
def test_tensors_of_another_network_are_refused(tensors, change, reason):
  changed = {name: x for name, x in (tensors | change).items() if x is not None}
  with pytest.raises(Unreadable, match=reason):
    inception_params(changed)


def test_files_are_read_or_refused_by_name(tmp_path):
  few = {"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3), np.float32)}
  np.savez(tmp_path / "few.npz", **few)
  torch_writer.write(tmp_path / "few.pth", torch_writer.state_dict(few))
  (tmp_path / "text.npz").write_text("no weights")
  (tmp_path / "text.pth").write_text("no weights")
  for name, reason in {
    "few.npz": "lacks the tensor Conv2d_1a_3x3.bn.weight",
    "few.pth": "lacks the tensor Conv2d_1a_3x3.bn.weight",
    "text.npz": "cannot be read as .npz",
    "text.pth": "not written by torch.save",
    "missing.npz": "cannot be read as .npz",
    "missing.pth": "no such file",
  }.items():
    with pytest.raises(UserError, match=f"{name}.*{reason}") as caught:
      read_inception(tmp_path / name)
    assert "\n" not in str(caught.value)
