"""The public face of a trained generator: `load(path)` and what can be asked of the `Model` it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from shapegan_jax.checkpoints import Checkpoints, export_safetensors, import_safetensors, read_config
from shapegan_jax.errors import UserError
from shapegan_jax.files import AnyPath, located
from shapegan_jax.methods.base import Method
from shapegan_jax.methods.catalog import build
from shapegan_jax.rng import root_key, stream
from shapegan_jax.sections import upgraded
from shapegan_jax.types import Array, Cameras, Codes, FieldSamples, Key, Lights, PyTree, Rendering, Scene

ZOO = Path(__file__).parent / "zoo"

# Compiled once per method and shape: the method is a static argument, so new parameters cost no compilation, and a
# `dataclasses.replace` of the method is a method of its own.


@partial(jax.jit, static_argnames=("method", "surface", "resolution", "truncation"))
def _render(
  method: Method, params: PyTree, scene: Scene, *, surface: bool, resolution: int, truncation: float
) -> Rendering:
  render = method.render_surface if surface else method.render
  return render(params, scene, resolution=resolution, truncation=truncation)


@partial(jax.jit, static_argnums=0)
def _query(
  method: Method,
  params: PyTree,
  latents: Array | Codes,
  points: Array,
  lights: Lights | None,
  viewdirs: Array | None,
) -> FieldSamples:
  return method.query(params, latents, points, lights, viewdirs)


@partial(jax.jit, static_argnums=0, static_argnames="truncation")
def _codes(method: Method, params: PyTree, latents: Array | Codes, *, truncation: float) -> Codes:
  return method.codes(params, latents, truncation=truncation)


@dataclasses.dataclass(frozen=True)
class Model:
  """A method and the parameters of its generator. Everything is pure; `key=None` always gives the same answer."""

  method: Method
  params: PyTree
  config: Mapping[str, Any]
  step: int = 0  # updates the generator has had

  @property
  def resolution(self) -> int:
    """Of the last training stage."""
    return self.method.stages[-1][1].resolution

  def sample_latents(self, n: int = 1, key: Key | None = None) -> Array:
    """[n, latent] from the prior."""
    return self.method.sample_latents(_key(key, "latents"), n)

  def sample_cameras(self, n: int = 1, key: Key | None = None) -> Cameras:
    """[n] cameras from the pose prior of the training set."""
    return self.method.sample_cameras(_key(key, "cameras"), n)

  def sample_lights(self, n: int = 1, key: Key | None = None) -> Lights | None:
    """[n] lights from the light prior; None where the method has no light model."""
    return self.method.sample_lights(_key(key, "lights"), n)

  def sample_scene(self, n: int = 1, key: Key | None = None) -> Scene:
    """[n] latents, cameras and lights: what `render` draws where it is given none."""
    return Scene(self.sample_latents(n, key), self.sample_cameras(n, key), self.sample_lights(n, key))

  def central_cameras(self, n: int = 1) -> Cameras:
    """[n] cameras at the centre of the pose prior."""
    return self.method.sample_cameras(None, n)

  def cameras_at(self, yaw: ArrayLike = 0.0, pitch: ArrayLike = 0.0) -> Cameras:
    """[n] cameras with the field of view and the distance of training, at these angles (radians; 0, 0: the front).

    Numbers stand for [1], and for as many as the other angle has.
    """
    angles = (jnp.atleast_1d(jnp.asarray(angle, jnp.float32)) for angle in (yaw, pitch))
    return self.method.cameras_at(*jnp.broadcast_arrays(*angles))

  def mean_lights(self, n: int = 1) -> Lights | None:
    """[n] times the mean of the light prior; None where the method has no light model."""
    return self.method.sample_lights(None, n)

  def codes(self, latents: Float[Array, "n _"] | Codes, *, truncation: float = 1.0) -> Codes:
    """The modulations of latents: what inversion optimises, and what may be given wherever latents are."""
    return _codes(self.method, self.params, latents, truncation=truncation)

  def render(
    self,
    latents: Float[Array, "n _"] | Codes | None = None,
    cameras: Cameras | None = None,
    lights: Lights | None = None,
    *,
    resolution: int | None = None,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    """Pictures [n, resolution, resolution, ...] of the latents, in these cameras and lights.

    Args:
      latents: [n, latent], or codes of n; None: drawn with `key`, as many as there are cameras or lights (or one).
      cameras, lights: [n]; None: drawn from their priors with `key`.
      resolution: pixels a side; None: that of the last training stage.
      truncation: 1 = the whole prior; towards 0 the average shape.
      key: draws what was not given; None: always the same.
    """
    return self._picture(False, latents, cameras, lights, key, resolution, truncation)

  def render_surface(
    self,
    latents: Float[Array, "n _"] | Codes | None = None,
    cameras: Cameras | None = None,
    lights: Lights | None = None,
    *,
    resolution: int | None = None,
    truncation: float = 1.0,
    key: Key | None = None,
  ) -> Rendering:
    """Pictures by one colour evaluation a ray, where it meets the surface; arguments as in `render`.

    Raises:
      UserError: the method's field has no surface of its own (only occupancy fields have: GOF).
    """
    if not self.method.has_surface:
      raise UserError("render_surface: this model is a density field without a surface; use render, or train GOF")
    return self._picture(True, latents, cameras, lights, key, resolution, truncation)

  def query(
    self,
    latents: Float[Array, "n _"] | Codes,
    points: Float[Array, "n p 3"],
    lights: Lights | None = None,
    viewdirs: Float[Array, "n p 3"] | None = None,
  ) -> FieldSamples:
    """The field of each latent at its world points: raw density (or logit), colour, and the gradient of raw.

    `viewdirs` (unit, from the camera on) are the directions the points are seen along; None: from the front.
    """
    return _query(self.method, self.params, latents, points, lights, viewdirs)

  def save(self, path: str | Path) -> None:
    """Write config and parameters to one `.safetensors` file, which `load` reads."""
    export_safetensors(path, self.params, {"config": self.config, "step": self.step})

  def _picture(
    self,
    surface: bool,
    latents: Array | Codes | None,
    cameras: Cameras | None,
    lights: Lights | None,
    key: Key | None,
    resolution: int | None,
    truncation: float,
  ) -> Rendering:
    given = [jax.tree.leaves(x)[0].shape[0] for x in (latents, cameras, lights) if x is not None]
    n = given[0] if given else 1
    if len(set(given)) > 1:
      raise UserError(f"render: latents, cameras and lights must be equally many; found {given}")
    scene = Scene(
      self.sample_latents(n, key) if latents is None else latents,
      self.sample_cameras(n, key) if cameras is None else cameras,
      self.sample_lights(n, key) if lights is None else lights,
    )
    resolution = resolution or self.resolution
    return _render(self.method, self.params, scene, surface=surface, resolution=resolution, truncation=truncation)


def load(path: str | AnyPath) -> Model:
  """The model of a workdir (its newest checkpoint's averaged parameters), of an exported `.safetensors` file, or of a
  name in `shipped_models()`.

  Raises:
    UserError: no such path or name, not a workdir, or nothing trained yet.
  """
  path = located(path)
  if not path.exists() and str(path) in (shipped := shipped_models()):
    path = shipped[str(path)]
  if path.is_file():
    params, metadata = import_safetensors(path)
    if "config" not in metadata:
      raise UserError(f"{path}: holds parameters but no config of this package; export it with Model.save")
    config = upgraded(metadata["config"], metadata["format"])
    method = build(config)
    return Model(method, _fitted(path, params, method), config, step=metadata.get("step", 0))
  if not path.exists():
    names = f", or one of {', '.join(shipped_models())}" if shipped_models() else ""
    raise UserError(f"{path}: no such model; give a workdir of shapegan_jax.main, an exported .safetensors{names}")
  config = read_config(path)
  return from_workdir(path, build(config), config)


def shipped_models() -> dict[str, Path]:
  """Name -> file of the trained models that come with the package; a card lies beside each."""
  return {path.parent.name: path for path in sorted(ZOO.glob("*/model.safetensors"))}


def from_workdir(workdir: str | AnyPath, method: Method, config: Mapping[str, Any]) -> Model:
  """The model of the workdir's newest checkpoint, whose method is at hand already."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), jax.eval_shape(method.init, root_key(0))
  )
  with Checkpoints(workdir, read_only=True) as checkpoints:
    step = checkpoints.latest_step()
    state = checkpoints.restore(abstract, step)
  return Model(method, method.params_of(state, ema=True), config, step=step)


def with_dependencies(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """(the config, complete; the trained models that its method stands on, by name, for `Method.init`).

  GAN2Shape's: `config.gan.model`, a StyleGAN2 whose networks' sizes are filled in, and `config.networks.model`, another
  GAN2Shape.

  Raises:
    UserError: one of them is not there, or is of another kind.
  """
  config, found = dict(config), {}
  if name := (config.get("gan") or {}).get("model"):
    from shapegan_jax.methods.stylegan2.frozen import FrozenGan

    generator = _named("config.gan.model", name)
    found["gan"] = FrozenGan.of(generator)
    network = {part: generator.config[part] for part in ("mapping", "synthesis", "discriminator")}
    config["gan"] = {**config["gan"], "network": network}
  if name := (config.get("networks") or {}).get("model"):
    trained = _named("config.networks.model", name)
    if "networks" not in trained.params:
      raise UserError(f"config.networks.model: {name} is no GAN2Shape; name one, or set it to ''")
    found["networks"] = trained.params["networks"]
  return config, found


def _named(setting: str, name: str) -> Model:
  try:
    return load(name)
  except UserError as error:
    raise UserError(f"{setting}: {error}") from error


def _key(key: Key | None, name: str) -> Key:
  return stream(root_key(0) if key is None else key, name)


def _fitted(path: Path, params: PyTree, method: Method) -> PyTree:
  """`params` on the device, in the structure and shapes that the method expects."""
  expected = jax.eval_shape(lambda key: method.params_of(method.init(key), ema=True), root_key(0))

  def shapes(tree: PyTree) -> set[tuple[str, tuple[int, ...]]]:
    return {(jax.tree_util.keystr(name), x.shape) for name, x in jax.tree_util.tree_leaves_with_path(tree)}

  if odd := sorted(shapes(params) ^ shapes(expected)):
    raise UserError(f"{path}: parameters do not fit their config (first at {odd[0][0]}); export the model again")
  # A file may hold half the digits; the arithmetic is the one of training.
  return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), params, expected)
