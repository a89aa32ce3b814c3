"""`shapegan lift`: the 3D shape of the object in an image, by GAN2Shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shapegan_jax.errors import UserError
from shapegan_jax.tools.shared.outputs import check_folder
from shapegan_jax.tools.shared.photographs import check_mask, find_photographs

if TYPE_CHECKING:
  from shapegan_jax.methods.gan2shape.instance_training import Schedule
  from shapegan_jax.methods.stylegan2.frozen import FrozenGan
  from shapegan_jax.model import Model
  from shapegan_jax.types import Array, PyTree

_COLORS = {"white": 1.0, "grey": 0.0, "black": -1.0}
_MAX_RESOLUTION = 128  # of the method; images of a larger generator are downsampled


def lift(
  *,
  model: str,
  output: Path,
  input: Path | None = None,
  seeds: tuple[int, ...] = (0,),
  schedule: tuple[str, ...] = ("short",),
  rounds: int | None = None,
  symmetry: Literal["none", "first", "all"] = "first",
  gan: str | None = None,
  mask: Path | None = None,
  background: Literal["white", "grey", "black", "plain", "none"] | None = None,
  fov: float | None = None,
  width: int | None = None,
  projection_steps: int = 400,
  projection_starts: int = 1,
  truncation: float = 0.7,
  perceptual: bool = False,
  batch: int = 1,
  mesh: tuple[Literal["glb", "obj", "ply", "stl"], ...] = ("glb",),
  video: Literal["auto", "mp4", "gif", "none"] = "auto",
) -> None:
  """Lift images to 3D: depth, albedo, normals, view and light, a mesh, and the image in novel views and lights.

  shapegan lift --model=gan2shape-heads --input=photo.png --output=lifted

  A GAN trained on images of one category has seen its objects from many sides. Renderings of a first guess of the shape
  in other views are projected into the GAN, which corrects them, and the shape is refitted to the result, in several
  rounds (GAN2Shape). Photographs should resemble the images that the GAN was trained on; they are projected into it
  first. OUTPUT/NAME receives sheet.png (an overview of the results), steps.png (renderings of each round and their
  projections), the mesh, videos and lift.json; OUTPUT/previews receives images during the run. A stopped run is resumed
  by the same command.

  Args:
    model: A jointly trained GAN2Shape model, or a StyleGAN2 (then every shape starts from an ellipsoid, which takes far
      longer): a shipped name, a workdir of shapegan_jax.main, or a .safetensors file.
    output: The folder to write to.
    input: A photograph, or a folder of them, instead of seeds. Unreadable files are listed and skipped.
    seeds: Random images of the generator, reproducible by their seeds.
    schedule: short, full (as published), bfm (as published for synthetic faces), or three numbers: the steps per round
      that fit the albedo, that train the offset encoder, and that fit everything; three more numbers are those of the
      rounds after the first.
    rounds: Number of rounds; by default that of the schedule.
    symmetry: The rounds in which the mirrored shape must reconstruct the images as well. Use none for asymmetric
      objects.
    gan: The StyleGAN2 of a GAN2Shape model, if it is not at the path stored in the model.
    mask: White where the object is, of the same size as the photograph; for a folder: a folder of masks with the same
      names.
    background: Without a mask, everything that does not have this colour is the object; plain: the colour of the upper
      border; none: an ellipse in the middle. By default as in training; for a StyleGAN2: none.
    fov: Field of view in degrees, for a StyleGAN2: 12 for the heads, else 10.
    width: Width of the networks, for a StyleGAN2; by default as published, 64 for 64 pixels.
    projection_steps: Optimisation steps of the projection of a photograph.
    projection_starts: Starting points of that projection; the best one is continued.
    truncation: Truncation for seeds: 1 samples the whole prior; towards 0, images approach the average one.
    perceptual: Add an LPIPS loss, as published (needs the extra [metrics], and at least 32 pixels).
    batch: Images at a time, each with its own networks; more need more memory and are faster on a GPU.
    mesh: Mesh formats; all but glb need the extra [mesh] and have vertex colours.
    video: mp4 (extra [video]), gif, or none; auto: mp4 if it is installed, otherwise gif.
  """
  check_folder(output)
  if input is not None:
    find_photographs(input, output)
    check_mask(input, mask)
  elif mask is not None:
    raise UserError("--mask: needs a photograph; name it with --input")
  checked = (
    ("batch", batch, 1, 256),
    ("projection-steps", projection_steps, 1, 100_000),
    ("projection-starts", projection_starts, 1, 256),
    ("truncation", truncation, 0.0, 1.0),
    ("rounds", 1 if rounds is None else rounds, 1, 100),
    ("fov", 10 if fov is None else fov, 1, 120),
    ("width", 64 if width is None else width, 4, 512),
  )
  if width is not None and width % 4:
    raise UserError(f"--width={width}: must be a multiple of 4")
  for name, value, low, high in checked:
    if not low <= value <= high:
      raise UserError(f"--{name}={value}: must be {low} to {high}")
  _check_formats(output, mesh, video)
  _numbers(schedule)
  # Heavy imports only after the arguments are checked.
  from shapegan_jax import parallel
  from shapegan_jax.inversion.projection import ProjectionConfig
  from shapegan_jax.methods.gan2shape import instance_training
  from shapegan_jax.model import load
  from shapegan_jax.tools.lifting import inputs as lift_inputs
  from shapegan_jax.tools.lifting import run as lift_run
  from shapegan_jax.tools.lifting.files import Formats, video_ending

  parallel.enable_compilation_cache()
  loaded = load(model)
  networks, images, config, frozen = open_generator(model, loaded, gan, fov, width)
  if networks is not None:
    config = instance_training.with_estimated_views(config, networks, images)
  if background is not None:
    color = _COLORS.get(background)
    kind = "ellipse" if background == "none" else "background"
    config["masks"] = {**config.get("masks", {}), "kind": kind, "background": color}
  if perceptual:
    config["objectives"] = {**config.get("objectives", {}), "perceptual_net": "vgg16"}
  planned = schedule_of(schedule, rounds, pretrained=networks is not None)
  config = instance_training.instance_config(config, planned, pretrained=networks is not None, symmetry=symmetry)
  inputs = lift_inputs.inputs_from_seeds(seeds)
  if input is not None:
    inputs = lift_inputs.inputs_from_photographs(input, output, mask, frozen.resolution)
  lift_run.LiftRun(
    output=output,
    model=model,
    gan=frozen,
    networks=networks,
    trainer=instance_training.InstanceTrainer(config),
    projection=ProjectionConfig(
      steps=projection_steps, starts=projection_starts, perceptual=0.5 if perceptual else 0.0
    ),
    truncation=truncation,
    batch=min(batch, len(inputs)),
    formats=Formats(tuple(f".{ending}" for ending in mesh), video_ending(video)),
  )(inputs)


def schedule_of(words: tuple[str, ...], rounds: int | None, *, pretrained: bool) -> Schedule:
  """The schedule of `--schedule` and `--rounds`."""
  import dataclasses

  from shapegan_jax.methods.gan2shape import instance_training

  numbers = _numbers(words)
  if numbers:
    first, later = numbers[:3], numbers[-3:]
    pairs = dict(zip(("albedo", "encoder", "joint"), zip(first, later, strict=True), strict=True))
    base = instance_training.Schedule(rounds=2 if len(numbers) == 6 else 1, **pairs)
  else:
    base = instance_training.schedule_named(words[0], pretrained=pretrained)
  return base if rounds is None else dataclasses.replace(base, rounds=rounds)


def _numbers(words: tuple[str, ...]) -> tuple[int, ...]:
  if words in (("short",), ("full",), ("bfm",)):
    return ()
  numbers = tuple(int(word) for word in words if word.isdecimal() and int(word) > 0)
  if len(numbers) != len(words) or len(numbers) not in (3, 6):
    given = " ".join(words)
    raise UserError(f"--schedule {given}: must be short, full, bfm, or 3 or 6 numbers of steps such as 200 300 200")
  return numbers


def _check_formats(output: Path, mesh: tuple[str, ...], video: str) -> None:
  if any(ending != "glb" for ending in mesh):
    from shapegan_jax.meshing.files import load_trimesh

    load_trimesh()
  if video == "mp4":
    from shapegan_jax.tools.shared.videos import check_video

    check_video(output / "rotate_3d.mp4", 1.0, 24)


def open_generator(
  name: str, loaded: Model, gan: str | None = None, fov: float | None = None, width: int | None = None
) -> tuple[PyTree | None, Array | None, dict[str, Any], FrozenGan]:
  """(networks or None, their training images or None, a config of GAN2Shape, the frozen generator).

  Args:
    name, loaded: of `--model`.
    gan, fov, width: the options; None if they were not given.

  Raises:
    UserError: the model is of another method, or an option does not apply to it.
  """
  from shapegan_jax.methods.stylegan2.frozen import FrozenGan
  from shapegan_jax.model import with_dependencies

  config: dict[str, Any] = dict(loaded.config)
  if config["method"] == "gan2shape":
    for option, value in (("fov", fov), ("width", width)):
      if value is not None:
        raise UserError(f"--{option}: is fixed by this model's training; leave it out")
    if config["instances"].get("instance_specific"):
      raise UserError(f"--model={name}: its networks are instance-specific; name a jointly trained model")
    source = gan or config["gan"].get("model")
    if not source:
      raise UserError(f"--model={name}: does not name the StyleGAN2 it was trained with; name it with --gan")
    trained_with = config["gan"]["network"]["mapping"]["size"]
    config["gan"] = {**config["gan"], "model": source}
    config["networks"] = {**config["networks"], "model": ""}  # the model that its training started from
    config, found = with_dependencies(config)
    if found["gan"].latent_size != trained_with:
      raise UserError(
        f"--gan={source}: its latents differ in length from those of the StyleGAN2 this model was trained with"
      )
    return loaded.params["networks"], loaded.params["pictures"], config, found["gan"]
  if config["method"] != "stylegan2":
    raise UserError(f"--model={name}: is a model of {config['method']}; lift needs one of gan2shape or stylegan2")
  if gan is not None:
    raise UserError(f"--gan: --model={name} is a StyleGAN2 already; leave it out")
  frozen = FrozenGan.of(loaded)
  size = min(frozen.resolution, _MAX_RESOLUTION)
  width = min(64, max(4096 // size, 16)) if width is None else width
  fresh = {
    "method": "gan2shape",
    "stages": {"resolution": size},
    "gan": {"model": name, "network": {part: config[part] for part in ("mapping", "synthesis", "discriminator")}},
    "networks": {"width": width, "encoder_width": width, "offset_width": min(32, width)},
    "relief": {} if fov is None else {"fov_deg": fov},
  }
  return None, None, fresh, frozen
