"""The page of an evaluation shows every number, the baselines beside the model, and how each was measured."""

from shapegan_jax.reporting.report import markdown

ROW = {"side_e2": 1.5, "mad_deg": 20.0, "side_e2_of_constant": 0.5, "mad_deg_of_constant": 0.25}
MEANINGS = {"shape/convex_share": "share of samples that bulge"}


def test_the_page_shows_everything_there_is():
  result = {
    "step": 2200,
    "samples": 4,
    "shape/convex_share": 0.75,
    "image/FD-random": 12.345678,
    **{f"depth/{name}": value for name, value in ROW.items()},
    "alarms": ["hollow shapes"],
    "protocol": {"views": 64, "images": {"generated": 1024, "poses": {"prior": "gaussian"}}},
    "depth_baselines": {"constant": {name: 2 * value for name, value in ROW.items()}},
  }
  page = markdown("runs/heads", result, pictures={"Samples": "preview.png"}, meanings=MEANINGS)
  wanted = (
    "# runs/heads, step 2,200",
    "![Samples](preview.png)",
    "**Alarm:** hollow shapes",
    "| `shape/convex_share` | 0.75 | share of samples",
    "| `image/FD-random` | 12.35 | |".replace("| |", "|  |"),
    "| constant | 3 | 40 | 1 | 0.5 |",
    "| **this model** | 1.5 | 20 | 0.5 | 0.25 |",
    "- images.generated: 1,024",
    "- images.poses.prior: gaussian",
  )
  assert not [text for text in wanted if text not in page], page
