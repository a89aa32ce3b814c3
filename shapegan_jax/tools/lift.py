"""`shapegan lift`: the three-dimensional shape behind a picture, by GAN2Shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shapegan_jax.errors import UserError
from shapegan_jax.tools.shared.outputs import check_folder
from shapegan_jax.tools.shared.photographs import check_mask, find_photographs

if TYPE_CHECKING:
  from shapegan_jax.methods.gan2shape.instances import Schedule
  from shapegan_jax.model import Model

_COLORS = {"white": 1.0, "grey": 0.0, "black": -1.0}
_MOST_PIXELS = 128  # that the method works on; of a larger generator's pictures a smaller copy


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
  """Lift pictures to shapes: depth, albedo, normals, view and light, a mesh, and the picture from other sides.

  shapegan lift --model=gan2shape-heads --input=photo.png --output=lifted

  A generator of pictures has seen objects from many sides. It puts right wrong drawings of a first guess of the shape,
  and the shape is learned anew from these, in rounds (GAN2Shape). Photographs should look like the pictures the
  generator was trained on; they are first projected into it. OUTPUT/NAME gets sheet.png (everything in one picture),
  steps.png (drawings of each round and what the generator made of them), the mesh, videos and lift.json;
  OUTPUT/previews gets pictures while it runs. Stopped at any moment, the same command goes on.

  Args:
    model: A GAN2Shape model that was trained on many pictures, or a StyleGAN2 (then every shape starts from an
      ellipsoid, which takes far longer): a shipped name, a workdir of shapegan_jax.main, or a .safetensors file.
    output: The folder to write to.
    input: A photograph, or a folder of them, instead of seeds. What cannot be read is named and left out.
    seeds: Pictures of the generator, always the same for a seed.
    schedule: short, full (as published), bfm (as published for synthetic faces), or three numbers: in each round the
      steps that fit the albedo, that teach the encoder of offsets, and that fit everything; three more are those of the
      rounds after the first.
    rounds: How often; by default as the schedule says.
    symmetry: The rounds in which the mirrored shape has to explain the pictures too. none for what has no two sides.
    gan: The StyleGAN2 of a GAN2Shape model, where it is not where the model says.
    mask: White where the object is, as large as the photograph; of a folder: a folder of masks with their names.
    background: Without a mask, the object is what is not of this colour; plain: of the colour of the upper border;
      none: an ellipse in the middle. By default as the model was trained; of a StyleGAN2: none.
    fov: Angle of view in degrees, of a StyleGAN2's pictures: 12 for the heads, else 10.
    width: Of the networks of a StyleGAN2's shapes; by default as published, 64 for 64 pixels.
    projection_steps: Of the search for a photograph in the generator.
    projection_starts: Places to begin that search at; the best goes on.
    truncation: Of seeds: 1 draws from the whole prior; towards 0, pictures come closer to the average one.
    perceptual: Compare pictures by LPIPS too, as published (needs the extra [metrics], and 32 pixels).
    batch: Pictures at a time, each with its own networks; more need more memory and are faster on a GPU.
    mesh: Formats of the mesh; all but glb need the extra [mesh] and have colours at the vertices.
    video: mp4 (extra [video]), gif, or none; auto: mp4 where it can be made.
  """
  check_folder(output)
  if input is not None:
    find_photographs(input, output)
    check_mask(input, mask)
  elif mask is not None:
    raise UserError("--mask: is that of a photograph; name it with --input")
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
  # Only now is anything heavy loaded.
  from shapegan_jax import parallel
  from shapegan_jax.inversion.projection import ProjectionConfig
  from shapegan_jax.methods.gan2shape.method import instances as lifting
  from shapegan_jax.model import load
  from shapegan_jax.tools.lifting import run as lift_run
  from shapegan_jax.tools.lifting import subjects as lift_subjects
  from shapegan_jax.tools.lifting.files import Formats, video_ending

  parallel.enable_compilation_cache()
  loaded = load(model)
  networks, pictures, config, frozen = open_generator(model, loaded, gan, fov, width)
  if networks is not None:
    config = lifting.with_measured_views(config, networks, pictures)
  if background is not None:
    color = _COLORS.get(background)
    kind = "ellipse" if background == "none" else "background"
    config["masks"] = {**config.get("masks", {}), "kind": kind, "background": color}
  if perceptual:
    config["objectives"] = {**config.get("objectives", {}), "perceptual_net": "vgg16"}
  planned = schedule_of(schedule, rounds, pretrained=networks is not None)
  config = lifting.instance_config(config, planned, pretrained=networks is not None, symmetry=symmetry)
  wanted = lift_subjects.wanted_seeds(seeds)
  if input is not None:
    wanted = lift_subjects.wanted_photographs(input, output, mask, frozen.resolution)
  lift_run.Run(
    output=output,
    model=model,
    gan=frozen,
    networks=networks,
    lifter=lifting.Lifter(config),
    projection=ProjectionConfig(
      steps=projection_steps, starts=projection_starts, perceptual=0.5 if perceptual else 0.0
    ),
    truncation=truncation,
    batch=min(batch, len(wanted)),
    formats=Formats(tuple(f".{ending}" for ending in mesh), video_ending(video)),
  )(wanted)


def schedule_of(words: tuple[str, ...], rounds: int | None, *, pretrained: bool) -> Schedule:
  """The schedule that `--schedule` and `--rounds` name."""
  import dataclasses

  from shapegan_jax.methods.gan2shape.method import instances as lifting

  numbers = _numbers(words)
  if numbers:
    first, later = numbers[:3], numbers[-3:]
    pairs = dict(zip(("albedo", "encoder", "joint"), zip(first, later, strict=True), strict=True))
    base = lifting.Schedule(rounds=2 if len(numbers) == 6 else 1, **pairs)
  else:
    base = lifting.named(words[0], pretrained=pretrained)
  return base if rounds is None else dataclasses.replace(base, rounds=rounds)


def _numbers(words: tuple[str, ...]) -> tuple[int, ...]:
  if words in (("short",), ("full",), ("bfm",)):
    return ()
  numbers = tuple(int(word) for word in words if word.isdecimal() and int(word) > 0)
  if len(numbers) != len(words) or len(numbers) not in (3, 6):
    said = " ".join(words)
    raise UserError(f"--schedule {said}: must be short, full, bfm, or 3 or 6 numbers of steps such as 200 300 200")
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
) -> tuple[Any, Any, dict[str, Any], Any]:
  """(networks or None, the pictures they were trained on or None, a config of GAN2Shape, the frozen generator).

  Args:
    name, loaded: of `--model`.
    gan, fov, width: the options; None where they were not given.

  Raises:
    UserError: it is no model that can lift, or an option does not go with it.
  """
  from shapegan_jax.methods.stylegan2.frozen import FrozenGan
  from shapegan_jax.model import with_dependencies

  config: dict[str, Any] = dict(loaded.config)
  if config["method"] == "gan2shape":
    for option, value in (("fov", fov), ("width", width)):
      if value is not None:
        raise UserError(f"--{option}: is settled by this model's training; leave it out")
    if config["subjects"].get("instance"):
      raise UserError(f"--model={name}: its networks know one picture each; name one that was trained on many")
    source = gan or config["gan"].get("model")
    if not source:
      raise UserError(f"--model={name}: does not say which StyleGAN2 it was trained with; name it with --gan")
    trained_with = config["gan"]["network"]["mapping"]["size"]
    config["gan"] = {**config["gan"], "model": source}
    config["networks"] = {**config["networks"], "model": ""}  # what its own training began with
    config, found = with_dependencies(config)
    if found["gan"].latent_size != trained_with:
      raise UserError(f"--gan={source}: has latents of another length than the one of this model's training")
    return loaded.params["networks"], loaded.params["pictures"], config, found["gan"]
  if config["method"] != "stylegan2":
    raise UserError(f"--model={name}: is a model of {config['method']}; lift needs one of gan2shape or stylegan2")
  if gan is not None:
    raise UserError(f"--gan: --model={name} is a StyleGAN2 already; leave it out")
  frozen = FrozenGan.of(loaded)
  size = min(frozen.resolution, _MOST_PIXELS)
  width = min(64, max(4096 // size, 16)) if width is None else width
  fresh = {
    "method": "gan2shape",
    "stages": {"resolution": size},
    "gan": {"model": name, "network": {part: config[part] for part in ("mapping", "synthesis", "discriminator")}},
    "networks": {"width": width, "encoder_width": width, "offset_width": min(32, width)},
    "relief": {} if fov is None else {"fov_deg": fov},
  }
  return None, None, fresh, frozen
