"""An evaluation as a page that a person reads: pictures, numbers, and how each was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEANINGS = {
  "shape/convex_share": "share of samples that bulge towards the camera (a hollow face does not)",
  "shape/depth_deviation": "how much the depth of a sample varies, world units (median)",
  "shape/depth_deviation_ratio": "the same over the data's own",
  "shape/normal_disagreement_deg": "degrees between the field's normals and those of the depth (median)",
  "shape/weighted_variance_e4": "thickness of the surface: variance of the distance along rays, x10^4 (GOF)",
  "shape/opaque_share": "rays that meet matter, of which the thickness was taken",
  "view/color_error": "colour of one view laid onto another by its depth, mean difference in [0, 1]",
  "view/depth_error": "depth of one view laid onto another, mean relative difference",
  "view/common_share": "pixels that both views see",
  "depth/side_e2": "SIDE x10^2: error of log depth without its mean, of a network trained on generated pairs",
  "depth/mad_deg": "MAD: mean degrees between normals of estimated and true depth",
  "depth/side_e2_of_constant": "SIDE as a fraction of a constant depth's",
  "depth/mad_deg_of_constant": "MAD as a fraction of a constant depth's",
}
"""Name of a number -> what it says."""


def markdown(title: str, result: Mapping[str, Any], *, pictures: Mapping[str, str]) -> str:
  """The page.

  Args:
    title: what was measured.
    result: `step`, `alarms`, `protocol` (nested), `depth_baselines` (rows of numbers) and the numbers themselves.
    pictures: caption -> file beside the page.
  """
  numbers = {name: value for name, value in result.items() if "/" in name}
  lines = [f"# {title}, step {result['step']:,}", ""]
  lines += [f"![{caption}]({file})\n" for caption, file in pictures.items()]
  lines += [f"**Alarm:** {alarm}\n" for alarm in result["alarms"]]
  lines += ["| | | |", "|---|---|---|"]
  lines += [f"| `{name}` | {_shown(value)} | {MEANINGS.get(name, '')} |" for name, value in numbers.items()]
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
