"""The names and layouts of StyleGAN2's tensors in three code bases.

Names are templates: `{r}` is a resolution in pixels and `{R}` the largest one, `{up}` and `{conv}` number the
convolutions after the first resolution, `{j}` the resolutions after the first, `{q}` the discriminator's blocks from 1,
`{k}` layers from 0 and `{k1}` from 1, `{n}` noise maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

Conversion = Callable[[np.ndarray], np.ndarray]
_PIXELS = 16  # at the smallest resolution, 4 x 4


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor: its name in the file, its path (`a/b/c`) and shape in our tree, and the conversion between the two."""

  name: str
  path: str
  shape: tuple[int, ...]
  convert: Conversion


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a network: channels at 4, 8, ... pixels; for generators also latent length and mapping layers."""

  channels: tuple[int, ...]
  latent: int = 0
  layers: int = 0


def _flat(array: np.ndarray) -> np.ndarray:
  return array.reshape(-1)


def _torch_conv(array: np.ndarray) -> np.ndarray:
  return array.reshape(array.shape[-4:]).transpose(2, 3, 1, 0)


def _torch_up(array: np.ndarray) -> np.ndarray:
  return _torch_conv(array)[::-1, ::-1]


def _torch_hidden(array: np.ndarray) -> np.ndarray:
  """Reorders flattened features from (channel, row, column) to (row, column, channel)."""
  out = array.shape[0]
  return array.reshape(out, -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, out)


@dataclasses.dataclass(frozen=True)
class Names:
  """The names in one code base. `style_parts`, `rgb_parts`: kernel, style kernel and bias, (noise strength,) bias."""

  linear: tuple[str, str]
  const: str
  first: str
  up: str
  conv: str
  first_rgb: str
  rgb: str
  style_parts: tuple[str, str, str, str, str]
  rgb_parts: tuple[str, str, str, str]
  noise: tuple[str, str]  # noise maps of the upsampling convolutions, and of the others
  entrance: tuple[str, str]
  block: tuple[str, str, str, str, str]  # two convolutions, skip path
  tail: tuple[str, str]
  hidden: tuple[str, str]
  logit: tuple[str, str]
  constants: tuple[str, ...] = ()  # endings of the names of constants, which are ignored
  mean: str = ""  # the mean style, where it is among the other tensors
  rgb_axis: int = -3  # input channels of an RGB layer's kernel
  convert_linear: Conversion = np.transpose
  convert_conv: Conversion = _torch_conv
  convert_up: Conversion = _torch_up
  convert_hidden: Conversion = _torch_hidden
  convert_style_bias: Conversion = _flat

  def generator(self, sizes: Sizes) -> Iterator[Entry]:
    """The tensors of a generator except the mean style."""
    d, channels = sizes.latent, sizes.channels
    for k in range(sizes.layers):
      weight, bias = (name.format(k=k, k1=k + 1) for name in self.linear)
      yield Entry(weight, f"mapping/linear_{k}/kernel", (d, d), self.convert_linear)
      yield Entry(bias, f"mapping/linear_{k}/bias", (d,), _flat)
    yield Entry(
      self.const, "synthesis/const", (4, 4, channels[0]), lambda x: x.reshape(x.shape[-3:]).transpose(1, 2, 0)
    )
    for i, c in enumerate(channels):
      at = {"r": 4 * 2**i, "j": i - 1, "up": 2 * i - 2, "conv": 2 * i - 1}
      if i:
        yield from self._styled(self.up.format(**at), f"synthesis/ups_{i - 1}", channels[i - 1], c, d, self.convert_up)
        yield self._noise(0, 2 * i - 1, at)
      yield from self._styled(
        (self.conv if i else self.first).format(**at), f"synthesis/convs_{i}", c, c, d, self.convert_conv
      )
      yield self._noise(1, 2 * i, at)
      rgb, path = (self.rgb if i else self.first_rgb).format(**at), f"synthesis/rgbs_{i}"
      kernel, weight, bias, last = (rgb + part for part in self.rgb_parts)
      yield Entry(kernel, f"{path}/conv/kernel", (1, 1, c, 3), self.convert_conv)
      yield Entry(weight, f"{path}/conv/style/kernel", (d, c), self.convert_linear)
      yield Entry(bias, f"{path}/conv/style/bias", (c,), self.convert_style_bias)
      yield Entry(last, f"{path}/bias", (3,), _flat)

  def discriminator(self, sizes: Sizes) -> Iterator[Entry]:
    """The tensors of a discriminator."""
    channels, levels = sizes.channels, len(sizes.channels)
    first, last = channels[0], channels[-1]
    yield from self._conv(self.entrance, "entrance", (1, 1, 3, last), {"R": 4 * 2 ** (levels - 1)})
    for b in range(levels - 1):
      i = levels - 1 - b
      at, path, c = {"r": 4 * 2**i, "q": b + 1}, f"blocks_{b}", channels[i]
      yield from self._conv(self.block[:2], f"{path}/conv_0", (3, 3, c, c), at)
      yield from self._conv(self.block[2:4], f"{path}/conv_1", (3, 3, c, channels[i - 1]), at)
      yield Entry(self.block[4].format(**at), f"{path}/skip/kernel", (1, 1, c, channels[i - 1]), self.convert_conv)
    yield from self._conv(self.tail, "conv", (3, 3, first + 1, first), {})
    yield Entry(self.hidden[0], "hidden/kernel", (_PIXELS * first, first), self.convert_hidden)
    yield Entry(self.hidden[1], "hidden/bias", (first,), _flat)
    yield Entry(self.logit[0], "logit/kernel", (first, 1), self.convert_linear)
    yield Entry(self.logit[1], "logit/bias", (1,), _flat)

  def _styled(self, name: str, path: str, inputs: int, outputs: int, d: int, convert: Conversion) -> Iterator[Entry]:
    kernel, weight, bias, strength, last = (name + part for part in self.style_parts)
    yield Entry(kernel, f"{path}/conv/kernel", (3, 3, inputs, outputs), convert)
    yield Entry(weight, f"{path}/conv/style/kernel", (d, inputs), self.convert_linear)
    yield Entry(bias, f"{path}/conv/style/bias", (inputs,), self.convert_style_bias)
    yield Entry(strength, f"{path}/noise_strength", (), lambda x: x.reshape(()))
    yield Entry(last, f"{path}/bias", (outputs,), _flat)

  def _noise(self, which: int, n: int, at: dict[str, int]) -> Entry:
    side = at["r"]
    return Entry(
      self.noise[which].format(n=n, **at), f"noise/noise_{n}", (side, side), lambda x: x.reshape(x.shape[-2:])
    )

  def _conv(self, names: tuple[str, ...], path: str, shape: tuple[int, ...], at: dict[str, int]) -> Iterator[Entry]:
    yield Entry(names[0].format(**at), f"{path}/kernel", shape, self.convert_conv)
    yield Entry(names[1].format(**at), f"{path}/bias", shape[-1:], _flat)


ROSINALITY = Names(
  linear=("style.{k1}.weight", "style.{k1}.bias"),
  const="input.input",
  first="conv1",
  up="convs.{up}",
  conv="convs.{conv}",
  first_rgb="to_rgb1",
  rgb="to_rgbs.{j}",
  style_parts=(
    *(".conv.weight", ".conv.modulation.weight", ".conv.modulation.bias"),
    *(".noise.weight", ".activate.bias"),
  ),
  rgb_parts=(".conv.weight", ".conv.modulation.weight", ".conv.modulation.bias", ".bias"),
  noise=("noises.noise_{n}", "noises.noise_{n}"),
  entrance=("convs.0.0.weight", "convs.0.1.bias"),
  block=(
    *("convs.{q}.conv1.0.weight", "convs.{q}.conv1.1.bias", "convs.{q}.conv2.1.weight", "convs.{q}.conv2.2.bias"),
    "convs.{q}.skip.1.weight",
  ),
  tail=("final_conv.0.weight", "final_conv.1.bias"),
  hidden=("final_linear.0.weight", "final_linear.0.bias"),
  logit=("final_linear.1.weight", "final_linear.1.bias"),
  constants=(".kernel",),
)

ADA = Names(
  linear=("mapping.fc{k}.weight", "mapping.fc{k}.bias"),
  const="synthesis.b4.const",
  first="synthesis.b4.conv1",
  up="synthesis.b{r}.conv0",
  conv="synthesis.b{r}.conv1",
  first_rgb="synthesis.b4.torgb",
  rgb="synthesis.b{r}.torgb",
  style_parts=(".weight", ".affine.weight", ".affine.bias", ".noise_strength", ".bias"),
  rgb_parts=(".weight", ".affine.weight", ".affine.bias", ".bias"),
  noise=("synthesis.b{r}.conv0.noise_const", "synthesis.b{r}.conv1.noise_const"),
  entrance=("b{R}.fromrgb.weight", "b{R}.fromrgb.bias"),
  block=("b{r}.conv0.weight", "b{r}.conv0.bias", "b{r}.conv1.weight", "b{r}.conv1.bias", "b{r}.skip.weight"),
  tail=("b4.conv.weight", "b4.conv.bias"),
  hidden=("b4.fc.weight", "b4.fc.bias"),
  logit=("b4.out.weight", "b4.out.bias"),
  constants=("resample_filter",),
  mean="mapping.w_avg",
)

TENSORFLOW = Names(
  linear=("mapping/Dense{k}/weight", "mapping/Dense{k}/bias"),
  const="synthesis/4x4/Const/const",
  first="synthesis/4x4/Conv",
  up="synthesis/{r}x{r}/Conv0_up",
  conv="synthesis/{r}x{r}/Conv1",
  first_rgb="synthesis/4x4/ToRGB",
  rgb="synthesis/{r}x{r}/ToRGB",
  style_parts=("/weight", "/mod_weight", "/mod_bias", "/noise_strength", "/bias"),
  rgb_parts=("/weight", "/mod_weight", "/mod_bias", "/bias"),
  noise=("synthesis/noise{n}", "synthesis/noise{n}"),
  entrance=("{R}x{R}/FromRGB/weight", "{R}x{R}/FromRGB/bias"),
  block=(
    *("{r}x{r}/Conv0/weight", "{r}x{r}/Conv0/bias", "{r}x{r}/Conv1_down/weight", "{r}x{r}/Conv1_down/bias"),
    "{r}x{r}/Skip/weight",
  ),
  tail=("4x4/Conv/weight", "4x4/Conv/bias"),
  hidden=("4x4/Dense0/weight", "4x4/Dense0/bias"),
  logit=("Output/weight", "Output/bias"),
  mean="dlatent_avg",
  rgb_axis=2,
  convert_linear=lambda x: x,
  convert_conv=lambda x: x,
  convert_up=lambda x: x,
  convert_hidden=lambda x: _torch_hidden(x.T),
  convert_style_bias=lambda x: x + 1,
)
