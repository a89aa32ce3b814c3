"""`shapegan mesh`: shapes of a generator as mesh files."""

from __future__ import annotations

from pathlib import Path

from shapegan_jax.errors import UserError
from shapegan_jax.files import aside
from shapegan_jax.tools.shared.outputs import check_output


def mesh(
  *,
  model: str,
  output: Path,
  seeds: tuple[int, ...] = (0,),
  codes: Path | None = None,
  resolution: int = 256,
  level: float | None = None,
  truncation: float = 1.0,
  all_components: bool = False,
  texture: bool = False,
  texture_size: int = 1024,
) -> None:
  """Write shapes as closed triangle meshes with colours and normals, and a picture of each beside it.

  shapegan mesh --model=shadegan-heads --output=head.glb --seeds 0

  The mesh is y up, its front looks along +z, and its units are the model's world units. Colours are the albedo for
  models with light, otherwise the colour as seen from the front. STL has no colours.

  Args:
    model: A shipped model's name, a workdir of shapegan_jax.main, or an exported .safetensors file.
    output: The file to write: .glb, .ply, .obj or .stl. Several shapes go to a file each, NAME-seed-0.glb.
    seeds: One shape each, always the same for a seed.
    codes: Shapes found by shapegan invert, instead of seeds.
    resolution: Cells along each side of the volume.
    level: Where the surface is, in the field's own unit: a density per world unit, or for GOF an occupancy logit. By
      default half the density at which half of the light from the front is absorbed; a logit of 0 (occupancy 1/2).
    truncation: 1 draws from the whole prior; towards 0, shapes come closer to the average one.
    all_components: Keep every connected part of the surface, not only the largest.
    texture: Colours as a texture (an atlas) instead of at the vertices; GLB only.
    texture_size: Height and width of the texture in pixels.
  """
  from shapegan_jax.meshing.files import ENDINGS

  check_output(output, ENDINGS)
  if texture and output.suffix.lower() != ".glb":
    raise UserError(f"--texture: only .glb can hold a texture, found {output}; name a .glb or leave it out")
  if not 16 <= resolution <= 1024:
    raise UserError(f"--resolution={resolution}: must be 16 to 1024 cells per side")
  if not 64 <= texture_size <= 8192:
    raise UserError(f"--texture-size={texture_size}: must be 64 to 8192 pixels per side")
  _check_extras(output)
  # Heavy imports come last.
  import functools

  from shapegan_jax.meshing import extraction as mesh_extraction
  from shapegan_jax.meshing.files import write_mesh
  from shapegan_jax.meshing.textures import textured
  from shapegan_jax.model import load
  from shapegan_jax.reporting.previews import labelled_grid
  from shapegan_jax.reporting.writer import write_png
  from shapegan_jax.tools.shared import drawing
  from shapegan_jax.tools.shared.instances import choose

  loaded = load(model)
  drawing.check_shape(loaded, "shapegan mesh")
  subjects, _ = drawing.settle(loaded, choose(loaded, seeds, codes), None, truncation)
  names = drawing.file_names(subjects.names)
  extractor = mesh_extraction.Extractor(loaded)
  for subject, name in zip((subjects[i] for i in range(len(subjects))), names, strict=True):
    path = output if len(subjects) == 1 else output.with_name(f"{output.stem}-{name}{output.suffix}")
    found = extractor.extract(
      subject.latents, subject.lights, resolution=resolution, level=level, all_components=all_components
    )
    written = found.mesh
    if texture:
      colors = functools.partial(extractor.surface_colors, subject.latents, subject.lights, span=found.span)
      written = textured(written, colors, size=texture_size)
    notes = {"level": found.level, "unit": found.unit, "resolution": resolution}
    preview = path.with_suffix(".png")
    with aside(path) as place, aside(preview) as picture:
      write_mesh(place, written, name=name, notes=notes)
      write_png(picture, labelled_grid(mesh_extraction.mesh_views(found.mesh, found.half)))
    low, high = found.field_range
    chosen = "given" if level is not None else "automatic"
    kept = f"all {found.parts} parts" if all_components else f"the largest of {found.parts} parts"
    print(f"{path}: {len(written.vertices):,} vertices, {len(written.faces):,} triangles, {kept}")
    print(f"  level {found.level:.4g} ({chosen}; {found.unit}, {low:.4g} to {high:.4g} here); picture: {preview}")


def _check_extras(output: Path) -> None:
  """Before the work begins."""
  from shapegan_jax.meshing.files import load_trimesh
  from shapegan_jax.meshing.meshes import load_scikit_image

  load_scikit_image()
  if output.suffix.lower() != ".glb":
    load_trimesh()
