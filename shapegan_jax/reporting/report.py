"""An evaluation as a Markdown page: pictures, numbers, and how each was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(title: str, result: Mapping[str, Any], *, pictures: Mapping[str, str], meanings: Mapping[str, str]) -> str:
  """The page.

  Args:
    title: what was measured.
    result: `step`, `alarms`, `protocol` (nested), `depth_baselines` (rows of numbers) and the numbers themselves,
      which are floats.
    pictures: caption -> file beside the page.
    meanings: name of a number -> its meaning in a sentence.
  """
  numbers = {name: value for name, value in result.items() if isinstance(value, float)}
  lines = [f"# {title}, step {result['step']:,}", ""]
  lines += [f"![{caption}]({file})\n" for caption, file in pictures.items()]
  lines += [f"**Alarm:** {alarm}\n" for alarm in result["alarms"]]
  lines += ["| | | |", "|---|---|---|"]
  lines += [f"| `{name}` | {_shown(value)} | {meanings.get(name, '')} |" for name, value in numbers.items()]
  if baselines := result.get("depth_baselines"):
    columns = ("side_e2", "mad_deg", "side_e2_of_constant", "mad_deg_of_constant")
    rows = {**baselines, "**this model**": {name: numbers[f"depth/{name}"] for name in columns}}
    lines += [
      "",
      "## Depth of real test pictures",
      "",
      "| | SIDE x10^2 | MAD, degrees | SIDE / constant | MAD / constant |",
    ]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(_shown(row[column]) for column in columns)} |" for name, row in rows.items()]
  lines += ["", "## How it was measured", ""]
  lines += [f"- {name}: {_shown(value)}" for name, value in _flat(result["protocol"])]
  return "\n".join(lines) + "\n"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  leaves = []
  for name, value in tree.items():
    leaves += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
  return leaves


def _shown(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
