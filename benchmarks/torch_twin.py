"""The training steps of pi-GAN and ShadeGAN in plain PyTorch, as the baseline of `benchmarks.speed`.

Written from the papers (Chan et al. 2021; Pan et al. 2021) for this purpose alone, in the way such code is usually
written: one batch, no chunks, autograd for everything, every sample through density and colour. Widths, samples,
losses and the order of the updates are those of `configs/{pigan,shadegan}.py:bfm`; weights are random, since only time
and memory are compared.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEAR, FAR, FOV, RADIUS = 0.88, 1.12, math.radians(12.0), 1.0
YAW, PITCH = 0.3, 0.155


class Film(nn.Module):
  """sin(f (x W + b) + p)."""

  def __init__(self, inputs: int, width: int):
    super().__init__()
    self.linear = nn.Linear(inputs, width)

  def forward(self, x: Tensor, frequencies: Tensor, phases: Tensor) -> Tensor:
    return torch.sin(frequencies[:, None] * self.linear(x) + phases[:, None])


class Field(nn.Module):
  """pi-GAN's FiLM-SIREN with its mapping network."""

  def __init__(self, width: int = 256, depth: int = 8, latent: int = 256, *, view: bool, light: bool):
    super().__init__()
    self.width, self.depth, self.view, self.light = width, depth, view, light
    layers: list[nn.Module] = []
    for i in range(3):
      layers += [nn.Linear(latent if i == 0 else 256, 256), nn.LeakyReLU(0.2)]
    self.mapping = nn.Sequential(*layers, nn.Linear(256, 2 * (depth + 1) * width))
    self.trunk = nn.ModuleList(Film(3 if i == 0 else width, width) for i in range(depth))
    self.density = nn.Linear(width, 1)
    self.color_film = Film(width + 3 * view + 4 * light, width)
    self.color = nn.Linear(width, 3)
    with torch.no_grad():
      for name, layer in self.named_modules():
        if isinstance(layer, nn.Linear) and not name.startswith("mapping"):
          bound = 1 / 3 if name == "trunk.0.linear" else math.sqrt(6 / layer.in_features) / 25
          layer.weight.uniform_(-bound, bound)

  def forward(self, points: Tensor, rays: Tensor, codes: Tensor, lights: Tensor) -> tuple[Tensor, Tensor]:
    """(raw density [b, n, 1], colour [b, n, 3]) at points [b, n, 3]."""
    frequencies, phases = codes.chunk(2, -1)
    frequencies = 15 * frequencies + 30
    x = points * (2 / 0.24)
    for i, layer in enumerate(self.trunk):
      part = slice(i * self.width, (i + 1) * self.width)
      x = layer(x, frequencies[:, part], phases[:, part])
    raw, part = self.density(x), slice(self.depth * self.width, None)
    inputs = [rays] if self.view else []
    inputs += [x, lights[:, None].expand(-1, x.shape[1], -1)] if self.light else [x]
    return raw, torch.sigmoid(self.color(self.color_film(torch.cat(inputs, -1), frequencies[:, part], phases[:, part])))


class CoordConv(nn.Module):
  """A convolution that also sees each pixel's row and column."""

  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.conv = nn.Conv2d(inputs + 2, outputs, 3, padding=1)

  def forward(self, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return self.conv(torch.cat([x, rows.expand(b, 1, h, w), columns.expand(b, 1, h, w)], 1))


class Block(nn.Module):
  """Two convolutions and a mean over 2 x 2, beside a projected mean."""

  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.first, self.second = CoordConv(inputs, outputs), CoordConv(outputs, outputs)
    self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

  def forward(self, x: Tensor) -> Tensor:
    y = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)
    return (F.avg_pool2d(y, 2) + self.skip(F.avg_pool2d(x, 2))) / math.sqrt(2)


class Discriminator(nn.Module):
  """The progressive discriminator after its fade-in: logit, latent and pose."""

  def __init__(self, resolution: int, latent: int = 256):
    super().__init__()
    widths = {128: 64, 64: 128, 32: 256}
    sizes = [2**i for i in range(int(math.log2(resolution)), 1, -1)]
    channels = [widths.get(size, 400) for size in [*sizes, 2]]
    self.enter = nn.Conv2d(3, channels[0], 1)
    self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(channels)))
    self.heads = nn.Conv2d(channels[-1], 1 + latent + 2, 2)
    self.latent = latent

  def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    answer = self.heads(self.blocks(F.leaky_relu(self.enter(image), 0.2)))[:, :, 0, 0]
    return answer[:, 0], answer[:, 1 : 1 + self.latent], answer[:, -2:]


def look_at(yaw: Tensor, pitch: Tensor) -> tuple[Tensor, Tensor]:
  """(rotation [b, 3, 3], origin [b, 3]) of cameras that look at the origin."""
  origin = RADIUS * torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], -1)
  back = F.normalize(origin, dim=-1)
  right = F.normalize(torch.linalg.cross(torch.tensor([[0.0, 1.0, 0.0]]).expand_as(back), back), dim=-1)
  return torch.stack([right, torch.linalg.cross(back, right), back], -1), origin


def weights_of(raw: Tensor, t: Tensor) -> Tensor:
  """Compositing weights [b, r, s]."""
  deltas = torch.cat([t[..., 1:] - t[..., :-1], torch.full_like(t[..., :1], 1e10)], -1)
  alphas = 1 - torch.exp(-deltas * F.relu(raw[..., 0]))
  seen = torch.cumprod(torch.cat([torch.ones_like(alphas[..., :1]), 1 - alphas + 1e-10], -1), -1)[..., :-1]
  return alphas * seen


def importance(middles: Tensor, weights: Tensor, n: int) -> Tensor:
  """n samples a ray by the inverse of the weights' distribution."""
  weights = weights + 1e-5
  cdf = torch.cumsum(weights / weights.sum(-1, keepdim=True), -1)
  cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], -1)
  u = torch.rand(*cdf.shape[:-1], n)
  above = torch.searchsorted(cdf, u).clamp(1, cdf.shape[-1] - 1)
  low, high = cdf.gather(-1, above - 1), cdf.gather(-1, above)
  start, end = middles.gather(-1, above - 1), middles.gather(-1, above)
  step = torch.where(high - low < 1e-5, 1.0, high - low)
  return start + (u - low) / step * (end - start)


class Generator(nn.Module):
  """Latents, poses and lights -> pictures [b, 3, h, w] in [-1, 1]."""

  def __init__(self, *, shaded: bool, samples: int = 12, width: int = 256, depth: int = 8):
    super().__init__()
    self.field = Field(width, depth, view=not shaded, light=shaded)
    self.shaded, self.samples = shaded, samples

  def forward(self, latents: Tensor, yaw: Tensor, pitch: Tensor, lights: Tensor, resolution: int) -> Tensor:
    b, s = latents.shape[0], self.samples
    codes = self.field.mapping(latents)
    rotation, origin = look_at(yaw, pitch)
    axis = torch.linspace(-1, 1, resolution) * math.tan(FOV / 2)
    rows, columns = torch.meshgrid(-axis, axis, indexing="ij")
    local = F.normalize(torch.stack([columns, rows, -torch.ones_like(rows)], -1).reshape(-1, 3), dim=-1)
    directions = local @ rotation.transpose(1, 2)
    spacing = (FAR - NEAR) / (s - 1)
    t = torch.linspace(NEAR, FAR, s).expand(b, resolution**2, s)
    t = t + (torch.rand(t.shape) - 0.5) * spacing
    raw, color = self._query(origin, directions, t, codes, lights)
    with torch.no_grad():
      weights = weights_of(raw, t)[..., 1:-1]
      fine = importance((t[..., 1:] + t[..., :-1]) / 2, weights, s)
    t_fine, (raw_fine, color_fine) = fine, self._query(origin, directions, fine, codes, lights)
    t, order = torch.cat([t, t_fine], -1).sort(-1)
    raw = torch.cat([raw, raw_fine], -2).gather(-2, order[..., None])
    color = torch.cat([color, color_fine], -2)
    color = color.gather(-2, order[..., None].expand(color.shape))
    values = (weights_of(raw, t)[..., None] * color).sum(-2)
    picture = values[..., :3]
    if self.shaded:
      direction = F.normalize(torch.cat([lights[:, 2:], torch.ones_like(lights[:, :1])], -1), dim=-1)
      cosine = (F.normalize(values[..., 3:], dim=-1) * direction[:, None]).sum(-1, keepdim=True).clamp(0, 1)
      picture = picture * (lights[:, None, :1] / 2 + 0.5 + (lights[:, None, 1:2] / 2 + 0.5) * cosine)
    return (2 * picture - 1).transpose(1, 2).reshape(b, 3, resolution, resolution)

  def _query(
    self, origin: Tensor, directions: Tensor, t: Tensor, codes: Tensor, lights: Tensor
  ) -> tuple[Tensor, Tensor]:
    b, n, s = t.shape
    points = (origin[:, None, None] + t[..., None] * directions[:, :, None]).reshape(b, n * s, 3)
    rays = directions[:, :, None].expand(b, n, s, 3).reshape(b, n * s, 3)
    if not self.shaded:
      raw, color = self.field(points, rays, codes, lights)
      return raw.reshape(b, n, s, 1), color.reshape(b, n, s, 3)
    learning = torch.is_grad_enabled()
    with torch.enable_grad():
      points = points.detach().requires_grad_()
      raw, color = self.field(points, rays, codes, lights)
      (normals,) = torch.autograd.grad(raw.sum(), points, create_graph=learning, retain_graph=learning)
    both = torch.cat([color, -normals], -1)
    return raw.reshape(b, n, s, 1), both.reshape(b, n, s, 6)


class Step:
  """One training step: discriminator with R1, generator, both averages."""

  def __init__(self, *, shaded: bool, resolution: int, batch: int, samples: int = 12, width: int = 256, depth: int = 8):
    torch.manual_seed(0)
    self.resolution, self.batch = resolution, batch
    self.generator = Generator(shaded=shaded, samples=samples, width=width, depth=depth)
    self.discriminator = Discriminator(resolution)
    self.averages = [copy.deepcopy(self.generator) for _ in range(2)]
    self.gen_opt = torch.optim.Adam(self.generator.parameters(), lr=2e-5, betas=(0.0, 0.9))
    self.disc_opt = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.0, 0.9))

  def _fakes(self) -> tuple[Tensor, Tensor, Tensor]:
    latents = torch.randn(self.batch, 256)
    yaw, pitch = YAW * torch.randn(self.batch), PITCH * torch.randn(self.batch)
    lights = 0.3 * torch.randn(self.batch, 4)
    return self.generator(latents, yaw, pitch, lights, self.resolution), latents, torch.stack([pitch, yaw], -1)

  def __call__(self, real: Tensor) -> float:
    """Learn from real pictures [b, 3, h, w]; the discriminator's loss."""
    with torch.no_grad():
      fakes, _, pose = self._fakes()
    real = real.detach().requires_grad_()
    real_logits = self.discriminator(real)[0]
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    fake_logits, _, fake_pose = self.discriminator(fakes)
    loss = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
    loss = loss + 0.5 * gradient.square().sum((1, 2, 3)).mean() + 15 * F.mse_loss(fake_pose, pose)
    self.disc_opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(self.discriminator.parameters(), 0.3)
    self.disc_opt.step()

    fakes, _, pose = self._fakes()
    logits, _, fake_pose = self.discriminator(fakes)
    goal = F.softplus(-logits).mean() + 15 * F.mse_loss(fake_pose, pose)
    self.gen_opt.zero_grad()
    goal.backward()
    nn.utils.clip_grad_norm_(self.generator.parameters(), 0.3)
    self.gen_opt.step()
    with torch.no_grad():
      for average, decay in zip(self.averages, (0.999, 0.9999), strict=True):
        for mean, new in zip(average.parameters(), self.generator.parameters(), strict=True):
          mean.lerp_(new, 1 - decay)
    return float(loss.detach())
