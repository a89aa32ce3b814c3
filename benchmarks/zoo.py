"""Ships a trained run with the package: its parameters in one file, its picture, and a model card.

  python -m shapegan_jax.main --config=configs/shadegan.py --workdir=runs/heads
  python -m shapegan_jax.main --config=configs/shadegan.py --workdir=runs/heads --mode=eval
  python -m benchmarks.shapes --models=heads=runs/heads --workdir=runs/depth
  python -m benchmarks.zoo --name=shadegan-heads --workdir=runs/heads --hours=0.6 --machine="two cores of ..." \
      --shapes=runs/depth/shapes.json --row=heads

Every number of the card is from the run itself; known faults are given in `--faults`, and kept when the model is
shipped again.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from absl import app, flags, logging

if TYPE_CHECKING:
  from shapegan_jax.model import Model

_NAME = flags.DEFINE_string("name", None, "What the model will be called.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The finished and evaluated run.", required=True)
_MACHINE = flags.DEFINE_string("machine", None, "What it was trained on.", required=True)
_HOURS = flags.DEFINE_float("hours", None, "How long it was trained.", required=True)
_HALF = flags.DEFINE_boolean("half", False, "Write float16, where the picture does not change; it is drawn with these.")
_FAULTS = flags.DEFINE_string("faults", "", "What is known to be wrong with it.")
_SHAPES = flags.DEFINE_string("shapes", None, "The shapes.json of benchmarks.shapes, for SIDE and MAD.")
_ROW = flags.DEFINE_string("row", None, "The model's row in it.")

LARGEST = 15 * 2**20
SEEDS = 8


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The description of a card's picture."""

  rows: str
  drawn: str


SHAPES = Pictures("Image, albedo, shading, normals, depth and three views", "latents, lights and poses")
PICTURES = Pictures("Image, at four truncations,", "latents")

SHOWN = ("side_e2", "side_e2_of_constant", "mad_deg", "mad_deg_of_constant")


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  from shapegan_jax import load
  from shapegan_jax.evaluation.preview import preview
  from shapegan_jax.model import ZOO
  from shapegan_jax.reporting.writer import write_png
  from shapegan_jax.state import parameter_count

  workdir, folder = Path(_WORKDIR.value), ZOO / _NAME.value
  model = load(workdir)
  measured = json.loads((workdir / "eval.json").read_text())
  if measured["step"] != model.step:
    raise SystemExit(f"{workdir}: eval.json is of step {measured['step']}, the checkpoint of {model.step}: --mode=eval")
  if _SHAPES.value:
    row = json.loads(Path(_SHAPES.value).read_text())[_ROW.value]
    measured |= {f"depth/{name}": row[name] for name in SHOWN}
  faults = _FAULTS.value or _kept_faults(folder / "card.md")
  if not faults:
    raise SystemExit("--faults: say what is known to be wrong with the model")
  # The cache directory belongs to the machine that it was trained on.
  config = {**model.config, "data": {**model.config["data"], "cache_dir": None}}
  model = dataclasses.replace(model, config=config)
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "model.safetensors"
  (_halved(model) if _HALF.value else model).save(path)
  if path.stat().st_size > LARGEST:
    raise SystemExit(f"{path}: {path.stat().st_size:,} bytes, at most {LARGEST:,}")
  write_png(folder / "picture.png", preview(load(path), count=SEEDS))
  count, size = parameter_count(model.params), path.stat().st_size
  pictures = SHAPES if model.method.has_shape else PICTURES
  (folder / "card.md").write_text(card(config, model.step, measured, faults, count, size, pictures))
  print(f"{path}: {size:,} bytes; {folder / 'card.md'}")


def card(
  config: dict[str, Any], step: int, measured: dict[str, Any], faults: str, count: int, size: int, pictures: Pictures
) -> str:
  """The card, in Markdown."""
  numbers = {name: value for name, value in sorted(measured.items()) if isinstance(value, int | float | str)}
  rows = "\n".join(f"| {name} | {_shown(value)} |" for name, value in numbers.items())
  protocol = f"depth/{SHOWN[0]}" in measured
  by = "; SIDE (times 100) and MAD (degrees) by `python -m benchmarks.shapes`" if protocol else ""
  generator = config.get("gan", {}).get("model")
  drawn_by = f", as `{generator}` draws them" if generator else ""
  numbers_are = "float16, read as float32" if _HALF.value else "float32"
  return f"""# {_NAME.value}

![{pictures.rows} of {SEEDS} latents](picture.png)

| | |
|---|---|
| config | `configs/{config["method"]}.py`, complete in the file's metadata |
| data | `{config["data"]["name"]}`: pictures without pose, shape or light{drawn_by} |
| updates, seed | {step:,}, {config["seed"]} |
| trained on | {_MACHINE.value}, {_HOURS.value:g} hours |
| parameters | {count:,} ({size / 2**20:.1f} MB, {numbers_are}: {_kept(config)}) |
| licence | Apache-2.0, as the package; the data set is rendered from a CC0 head model |

Its first {SEEDS} {pictures.drawn} are shown; none was picked.

## Measured

By `--mode=eval`{by}:

| | |
|---|---|
{rows}

## Known faults

{faults}
"""


def _kept(config: dict[str, Any]) -> str:
  return "the average that is evaluated" if "averages" in config else "those of the last update"


def _halved(model: Model) -> Model:
  half = lambda x: x.astype(jnp.float16) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
  return dataclasses.replace(model, params=jax.tree.map(half, model.params))


def _kept_faults(path: Path) -> str:
  found = re.search(r"## Known faults\n\n(.*)", path.read_text(), re.S) if path.exists() else None
  return found[1].strip() if found else ""


def _shown(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else f"{value}"


if __name__ == "__main__":
  app.run(main)
