"""StyleGAN2's files: the same small GAN in the layouts of three code bases gives the same parameters."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_writer import Call, Global, Persistent, Pickler, state_dict, write

from shapegan_jax.convert.stylegan2 import read_gan
from shapegan_jax.errors import UserError
from shapegan_jax.methods.catalog import build
from shapegan_jax.rng import root_key

D, CHANNELS = 6, (5, 4, 3)  # latents; channels at 4, 8 and 16 pixels


@pytest.fixture
def rosinality(rng):
  """(generator, discriminator, mean style) by the public PyTorch code's names."""
  g, d = {}, {}

  def put(into, name, *shape):
    into[name] = rng.normal(size=shape).astype(np.float32)

  def styled(name, inputs, outputs):
    put(g, f"{name}.conv.weight", 1, outputs, inputs, 3, 3)
    put(g, f"{name}.conv.modulation.weight", inputs, D)
    put(g, f"{name}.conv.modulation.bias", inputs)
    put(g, f"{name}.noise.weight", 1)
    put(g, f"{name}.activate.bias", outputs)

  for k in (1, 2):
    put(g, f"style.{k}.weight", D, D)
    put(g, f"style.{k}.bias", D)
  put(g, "input.input", 1, CHANNELS[0], 4, 4)
  for i, c in enumerate(CHANNELS):
    if i:
      styled(f"convs.{2 * i - 2}", CHANNELS[i - 1], c)
      g[f"convs.{2 * i - 2}.conv.blur.kernel"] = np.ones((4, 4), np.float32)
    styled(f"convs.{2 * i - 1}" if i else "conv1", c, c)
    rgb = f"to_rgbs.{i - 1}" if i else "to_rgb1"
    put(g, f"{rgb}.conv.weight", 1, 3, c, 1, 1)
    put(g, f"{rgb}.conv.modulation.weight", c, D)
    put(g, f"{rgb}.conv.modulation.bias", c)
    put(g, f"{rgb}.bias", 1, 3, 1, 1)
  for n, size in enumerate((4, 8, 8, 16, 16)):
    put(g, f"noises.noise_{n}", 1, 1, size, size)
  put(d, "convs.0.0.weight", CHANNELS[2], 3, 1, 1)
  put(d, "convs.0.1.bias", 1, CHANNELS[2], 1, 1)
  for q in (1, 2):
    a, b = CHANNELS[3 - q], CHANNELS[2 - q]
    put(d, f"convs.{q}.conv1.0.weight", a, a, 3, 3)
    put(d, f"convs.{q}.conv1.1.bias", a)
    put(d, f"convs.{q}.conv2.1.weight", b, a, 3, 3)
    put(d, f"convs.{q}.conv2.2.bias", b)
    put(d, f"convs.{q}.skip.1.weight", b, a, 1, 1)
  put(d, "final_conv.0.weight", CHANNELS[0], CHANNELS[0] + 1, 3, 3)
  put(d, "final_conv.1.bias", CHANNELS[0])
  put(d, "final_linear.0.weight", CHANNELS[0], 16 * CHANNELS[0])
  put(d, "final_linear.0.bias", CHANNELS[0])
  put(d, "final_linear.1.weight", 1, CHANNELS[0])
  put(d, "final_linear.1.bias", 1)
  return g, d, rng.normal(size=D).astype(np.float32)


def checkpoint(generator, discriminator, mean, **others):
  return {"g_ema": state_dict(generator), "d": state_dict(discriminator), "latent_avg": mean, **others}


RENAMED_DISCRIMINATOR = {
  **{"convs.0.0.weight": "b16.fromrgb.weight", "convs.0.1.bias": "b16.fromrgb.bias"},
  **{"final_conv.0.weight": "b4.conv.weight", "final_conv.1.bias": "b4.conv.bias"},
  **{"final_linear.0.weight": "b4.fc.weight", "final_linear.0.bias": "b4.fc.bias"},
  **{"final_linear.1.weight": "b4.out.weight", "final_linear.1.bias": "b4.out.bias"},
}
for _q, _r in ((1, 16), (2, 8)):
  RENAMED_DISCRIMINATOR |= {
    f"convs.{_q}.conv1.0.weight": f"b{_r}.conv0.weight",
    f"convs.{_q}.conv1.1.bias": f"b{_r}.conv0.bias",
    f"convs.{_q}.conv2.1.weight": f"b{_r}.conv1.weight",
    f"convs.{_q}.conv2.2.bias": f"b{_r}.conv1.bias",
    f"convs.{_q}.skip.1.weight": f"b{_r}.skip.weight",
  }
LAYERS = {  # convolutions: rosinality, NVIDIA's PyTorch, TensorFlow, number of the noise map
  "conv1": ("b4.conv1", "4x4/Conv", 0),
  "convs.0": ("b8.conv0", "8x8/Conv0_up", 1),
  "convs.1": ("b8.conv1", "8x8/Conv1", 2),
  "convs.2": ("b16.conv0", "16x16/Conv0_up", 3),
  "convs.3": ("b16.conv1", "16x16/Conv1", 4),
}
RGBS = {
  "to_rgb1": ("b4.torgb", "4x4/ToRGB"),
  "to_rgbs.0": ("b8.torgb", "8x8/ToRGB"),
  "to_rgbs.1": ("b16.torgb", "16x16/ToRGB"),
}


def as_nvidia(g, d, mean):
  """(generator, discriminator) with the names and shapes of NVIDIA's PyTorch code."""
  out = {"mapping.w_avg": mean, "synthesis.b4.const": g["input.input"][0]}
  for k in (0, 1):
    for leaf in ("weight", "bias"):
      out[f"mapping.fc{k}.{leaf}"] = g[f"style.{k + 1}.{leaf}"]
  for ours, (theirs, _, n) in LAYERS.items():
    out[f"synthesis.{theirs}.weight"] = g[f"{ours}.conv.weight"][0]
    out[f"synthesis.{theirs}.noise_strength"] = g[f"{ours}.noise.weight"][0]
    out[f"synthesis.{theirs}.bias"] = g[f"{ours}.activate.bias"]
    out[f"synthesis.{theirs}.noise_const"] = g[f"noises.noise_{n}"][0, 0]
    out[f"synthesis.{theirs}.resample_filter"] = np.ones((4, 4), np.float32)
  for ours, (theirs, _) in RGBS.items():
    out[f"synthesis.{theirs}.weight"] = g[f"{ours}.conv.weight"][0]
    out[f"synthesis.{theirs}.bias"] = g[f"{ours}.bias"].reshape(-1)
  for ours, (theirs, *_) in {**LAYERS, **RGBS}.items():
    for leaf in ("weight", "bias"):
      out[f"synthesis.{theirs}.affine.{leaf}"] = g[f"{ours}.conv.modulation.{leaf}"]
  discriminator = {
    new: d[old].reshape(-1) if new.endswith("bias") else d[old] for old, new in RENAMED_DISCRIMINATOR.items()
  }
  return out, discriminator


def as_tensorflow(g, d, mean):
  """(variables of the average's parts, of the discriminator) of NVIDIA's TensorFlow code: kernels [h, w, in, out]."""

  def kernel(x):
    return x.reshape(x.shape[-4:]).transpose(2, 3, 1, 0)

  mapping, synthesis = {}, {"4x4/Const/const": g["input.input"]}
  for k in (0, 1):
    mapping[f"Dense{k}/weight"] = g[f"style.{k + 1}.weight"].T
    mapping[f"Dense{k}/bias"] = g[f"style.{k + 1}.bias"]
  for ours, (_, theirs, n) in LAYERS.items():
    turned = kernel(g[f"{ours}.conv.weight"])
    synthesis[f"{theirs}/weight"] = turned[::-1, ::-1] if "up" in theirs else turned
    synthesis[f"{theirs}/noise_strength"] = g[f"{ours}.noise.weight"][0]  # a numpy number
    synthesis[f"{theirs}/bias"] = g[f"{ours}.activate.bias"]
    synthesis[f"noise{n}"] = g[f"noises.noise_{n}"]
  for ours, (_, theirs) in RGBS.items():
    synthesis[f"{theirs}/weight"] = kernel(g[f"{ours}.conv.weight"])
    synthesis[f"{theirs}/bias"] = g[f"{ours}.bias"].reshape(-1)
  for ours, (_, theirs, *_) in {**LAYERS, **RGBS}.items():
    synthesis[f"{theirs}/mod_weight"] = g[f"{ours}.conv.modulation.weight"].T
    synthesis[f"{theirs}/mod_bias"] = g[f"{ours}.conv.modulation.bias"] - 1
  discriminator = {}
  places = {"conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "fromrgb": "FromRGB"}
  for old, new in RENAMED_DISCRIMINATOR.items():
    block, layer, leaf = new.split(".")
    r = block[1:]
    name = {"conv": "4x4/Conv", "fc": "4x4/Dense0", "out": "Output"}.get(layer, f"{r}x{r}/{places.get(layer)}")
    x = d[old]
    discriminator[f"{name}/{leaf}"] = x.reshape(-1) if leaf == "bias" else x.T if x.ndim == 2 else kernel(x)
  return {"mapping": mapping, "synthesis": synthesis, "": {"dlatent_avg": mean}}, discriminator


@pytest.fixture
def homes(monkeypatch):
  """Empty modules of the names that pickles mention, so that Python's own pickler can write such files."""

  def home(name):
    for end in [i for i, letter in enumerate(name) if letter == "."] + [len(name)]:
      if name[:end] not in sys.modules or name.startswith("torch"):
        monkeypatch.setitem(sys.modules, name[:end], types.ModuleType(name[:end]))
    return sys.modules[name]

  def make(module, name, **body):
    made = type(name, body.pop("bases", ()), {"__module__": module, **body})
    setattr(home(module), name, made)
    return made

  def function(module, name):
    def made(*unused):
      raise AssertionError("a file's function was called")

    made.__module__, made.__qualname__, made.__name__ = module, name, name
    setattr(home(module), name, made)
    return made

  return types.SimpleNamespace(make=make, function=function)


def nvidia_pickle(homes, generator, discriminator, *, group=2, clamp=256, labels=False):
  """What NVIDIA's PyTorch code pickles: modules through their own function, tensors as files of torch's old format."""
  rebuild_module = homes.function("torch_utils.persistence", "_reconstruct_persistent_obj")
  rebuild_tensor = homes.function("torch._utils", "_rebuild_tensor_v2")
  load = homes.function("torch.storage", "_load_from_bytes")
  easy = homes.make("dnnlib.util", "EasyDict", bases=(dict,))

  class Reduced:
    def __init__(self, function, *arguments):
      self.function, self.arguments = function, arguments

    def __reduce__(self):
      return self.function, self.arguments

  def tensor(array):
    array = np.array(array, order="C")
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Reduced(rebuild_tensor, Reduced(load, storage_bytes(array)), 0, array.shape, strides, False, OrderedDict())

  def module(tensors, name, **attributes):
    tree = {}
    for key, array in tensors.items():
      first, _, rest = key.partition(".")
      tree.setdefault(first if rest else None, {})[rest or key] = array
    own = tree.pop(None, {})
    state = {
      **attributes.get(name, {}),
      "training": False,
      "_parameters": OrderedDict((key, tensor(x)) for key, x in own.items()),
      "_buffers": OrderedDict(),
      "_non_persistent_buffers_set": set(),
      "_modules": OrderedDict((key, module(part, f"{name}.{key}", **attributes)) for key, part in tree.items()),
      "_init_kwargs": easy(z_dim=D, gain=np.float64(2.0)),
    }
    if name == "D.b4":
      state["_modules"]["mbstd"] = module({}, "D.b4.mbstd", **attributes)
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": "Layer", "state": state}
    return Reduced(rebuild_module, meta)

  clamped = {"conv_clamp": clamp}
  g = module(generator, "G", **{"G.synthesis.b4.conv1": clamped})
  d = module(discriminator, "D", **{"D.b4.conv": clamped, "D.b4.mbstd": {"group_size": group}})
  snapshot = {"G": None, "D": d, "G_ema": g, "training_set_kwargs": easy(path="x"), "augment_pipe": None}
  return pickle.dumps(snapshot, protocol=4)


def storage_bytes(array):
  """A storage as torch's old format keeps it."""
  plain = Pickler()
  reference = ("storage", Global("torch", "FloatStorage"), "7", "cpu", array.size, None)
  head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
  parts = [plain.dumps(value) for value in (*head, Persistent(reference), ["7"])]
  return b"".join([*parts, struct.pack("<q", array.size), array.astype("<f4").tobytes()])


def tensorflow_pickle(homes, parts, discriminator):
  network = homes.make("dnnlib.tflib.network", "Network")

  def make(variables, **components):
    made = network()
    made.__dict__.update(version=4, name="G", static_kwargs={}, components=components, build_module_src="raise")
    made.__dict__["variables"] = [(name, np.asarray(x) if np.ndim(x) else x) for name, x in variables.items()]
    return made

  average = make(parts[""], mapping=make(parts["mapping"]), synthesis=make(parts["synthesis"]))
  return pickle.dumps((make({}), make(discriminator), average), protocol=4)


def shapes(tree):
  return jax.tree.map(np.shape, tree)


def same(a, b):
  assert shapes(a) == shapes(b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), a, b)


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_a_public_checkpoint_fits_our_networks(form, rosinality, tmp_path):
  g, d, mean = rosinality
  arguments = Call(Global("argparse", "Namespace"), state={"size": 16, "augment": False}, new=True)
  extra = {"g": state_dict(g), "args": arguments, "ada_aug_p": 0.0, "g_optim": {"state": {}, "param_groups": [{}]}}
  found = read_gan(write(tmp_path / "x.pt", checkpoint(g, d, mean, **extra), form=form))
  assert found.notes == ()
  method = build(found.config)
  assert shapes(found.params) == shapes(jax.eval_shape(lambda: method.params_of(method.init(root_key(0)))))
  np.testing.assert_array_equal(found.params["w_mean"], mean)
  np.testing.assert_array_equal(found.params["mapping"]["linear_1"]["kernel"], g["style.2.weight"].T)
  up = found.params["synthesis"]["ups_0"]["conv"]["kernel"]
  np.testing.assert_array_equal(up[0, 1], g["convs.0.conv.weight"][0, :, :, 2, 1].T)
  hidden = found.params["discriminator"]["hidden"]["kernel"].reshape(4, 4, CHANNELS[0], CHANNELS[0])
  np.testing.assert_array_equal(
    hidden[1, 2, 3], d["final_linear.0.weight"].reshape(CHANNELS[0], CHANNELS[0], 4, 4)[:, 3, 1, 2]
  )


def test_three_code_bases_tell_the_same(rosinality, homes, tmp_path):
  expected = read_gan(write(tmp_path / "x.pt", checkpoint(*rosinality)))
  path = tmp_path / "x.pkl"
  path.write_bytes(nvidia_pickle(homes, *as_nvidia(*rosinality)))
  found = read_gan(path)
  same(found.params, expected.params)
  assert found.config["discriminator"] == {"channels": CHANNELS, "group": 2, "clamp": 256.0}
  assert found.config["export"] == {"discriminator": True}
  assert found.config["synthesis"] == {"channels": CHANNELS, "clamp": 256.0}
  path.write_bytes(nvidia_pickle(homes, *as_nvidia(*rosinality), clamp=None))
  assert read_gan(path).config["synthesis"]["clamp"] == 0.0
  path.write_bytes(tensorflow_pickle(homes, *as_tensorflow(*rosinality)))
  found = read_gan(path)
  same(found.params, expected.params)
  assert found.config == expected.config | {"synthesis": {"channels": CHANNELS, "clamp": 0.0}}


def test_what_a_file_lacks_is_said(rosinality, tmp_path):
  g, d, mean = rosinality
  alone = read_gan(write(tmp_path / "x.pt", state_dict(g)))
  assert "discriminator" not in alone.params
  assert alone.config["export"]["discriminator"] is False
  assert ["no mean style" in note or "no discriminator" in note for note in alone.notes] == [True, True]
  method = build(alone.config)
  assert shapes(alone.params) == shapes(jax.eval_shape(lambda: method.params_of(method.init(root_key(0)))))
  # The mean style is that of many latents.
  z = jax.random.normal(jax.random.key(0), (4096, D))
  mapping = jax.tree.map(jnp.asarray, alone.params["mapping"])
  w = method.generator.apply({"params": {"mapping": mapping}}, z, method="map")
  np.testing.assert_allclose(alone.params["w_mean"], w.mean(0), atol=0.08 * float(w.std()))
  trained = {"g": state_dict(g), "d": state_dict(d), "latent_avg": mean}
  assert "no average" in read_gan(write(tmp_path / "x.pt", trained)).notes[0]


def without(tensors, name):
  return {key: x for key, x in tensors.items() if key != name}


def test_what_is_no_stylegan2_is_refused_in_one_line(rosinality, homes, tmp_path):
  g, d, mean = rosinality
  odd = np.zeros((2, 2), np.float32)
  path = tmp_path / "x.pt"
  for value, words in (
    (checkpoint(without(g, "convs.1.conv.weight"), d, mean), r"lacks the tensor convs\.1\.conv\.weight"),
    (checkpoint(g | {"convs.9.x": odd}, d, mean), r"tensor convs\.9\.x that is not expected"),
    (checkpoint(g | {"conv1.conv.weight": odd}, d, mean), r"conv1\.conv\.weight has the shape \(2, 2\)"),
    (checkpoint(g | {"style.2.bias": odd}, d, mean), r"style\.2\.bias has shape"),
    (checkpoint(without(g, "style.1.weight"), d, mean), r"lacks the tensor style\.1\.weight"),
    (checkpoint(without(g, "to_rgb1.conv.weight"), d, mean), r"lacks the tensor to_rgb1\.conv\.weight"),
    (checkpoint(g, without(d, "final_linear.1.bias"), mean), r"lacks the tensor final_linear\.1\.bias"),
    (checkpoint(g, without(d, "convs.1.conv2.1.weight"), mean), "lacks the blocks"),
    (checkpoint(g, d, odd), "latent_avg has shape"),
    (checkpoint(g | {"style.2.bias": np.full(D, np.nan, np.float32)}, d, mean), "not finite"),
    ({"g_ema": 3}, "a int"),
  ):
    with pytest.raises(UserError, match=words) as info:
      read_gan(write(path, value))
    assert str(info.value).startswith(f"{path}: ")
    assert "\n" not in str(info.value)
  generator, discriminator = as_nvidia(g, d, mean)
  for raw, words in (
    (nvidia_pickle(homes, generator | {"mapping.embed.weight": odd}, discriminator), "class-conditional"),
    (nvidia_pickle(homes, generator, discriminator)[:-40], "damaged"),
    (pickle.dumps({"G": 1}, protocol=4), "holds no G_ema"),
    (pickle.dumps([1], protocol=4), "neither a dictionary nor three networks"),
    (pickle.dumps({"G_ema": io.BytesIO}, protocol=4), r"refers to _io\.BytesIO"),
    (pickle.dumps({"G_ema": 3, "D": None}, protocol=4), "a int"),
    (b"\x80", "damaged"),
  ):
    path.write_bytes(raw)
    with pytest.raises(UserError, match=words):
      read_gan(path)
  with pytest.raises(UserError, match="no such file"):
    read_gan(tmp_path / "absent.pkl")


def test_a_blob_asked_for_again_and_again_is_refused(homes, tmp_path):
  """A small file must not fill the memory."""
  load = homes.function("torch.storage", "_load_from_bytes")

  class Storage:
    def __reduce__(self):
      return load, (blob,)

  blob = storage_bytes(np.zeros(1000, np.float32))
  (tmp_path / "x.pkl").write_bytes(pickle.dumps({"G_ema": [Storage() for _ in range(50)]}, protocol=4))
  with pytest.raises(UserError, match="overlap"):
    read_gan(tmp_path / "x.pkl")
