"""Videos hold every frame, keep colours, and are whole or not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapegan_jax import UserError
from shapegan_jax.tools.shared.videos import check_video, write_video

HAS_FFMPEG = importlib.util.find_spec("imageio_ffmpeg") is not None


def frames(n=6, height=17, width=21):
  """A blue square that moves over white."""
  for i in range(n):
    frame = np.full((height, width, 3), 255, np.uint8)
    frame[4:10, 2 * i : 2 * i + 6] = (20, 40, 200)
    yield frame


def gif_frames(path):
  with Image.open(path) as gif:
    found = []
    for i in range(gif.n_frames):
      gif.seek(i)
      found.append(np.asarray(gif.convert("RGB"), int))
    return found, gif.info


def test_a_gif_holds_every_frame_and_its_colours(tmp_path):
  write_video(tmp_path / "new" / "a.gif", frames(), 20)
  found, info = gif_frames(tmp_path / "new" / "a.gif")
  assert len(found) == 6
  assert info["duration"] == 50
  assert info["loop"] == 0, "it repeats for ever"
  for frame, given in zip(found, frames(), strict=True):
    assert np.abs(frame - given).max() <= 8
    np.testing.assert_array_equal(frame[0], 255, err_msg="white stays white")


def test_white_and_black_stay_pure_among_many_colours(tmp_path, rng):
  picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
  picture[:4], picture[4:8] = 255, 0
  picture[8:20] = rng.integers(249, 256, (12, 40, 3), dtype=np.uint8)  # would share white's place in the palette
  write_video(tmp_path / "a.gif", [picture, picture[:, ::-1]], 10)
  for frame in gif_frames(tmp_path / "a.gif")[0]:
    np.testing.assert_array_equal(frame[:4], 255)
    np.testing.assert_array_equal(frame[4:8], 0)


@pytest.mark.skipif(not HAS_FFMPEG, reason="needs imageio[ffmpeg]: pip install -e '.[video]'")
def test_an_mp4_holds_every_frame_and_has_even_sides(tmp_path, recwarn):
  import imageio.v2 as imageio

  write_video(tmp_path / "a.mp4", (frame.repeat(8, 0).repeat(8, 1)[1:, 1:] for frame in frames()), 10)
  assert not [str(warning.message) for warning in recwarn if "fork" in str(warning.message)]
  with imageio.get_reader(tmp_path / "a.mp4") as reader:
    assert reader.get_meta_data()["fps"] == 10
    found = list(reader.iter_data())
  assert len(found) == 6
  assert found[0].shape == (136, 168, 3)
  for frame, given in zip(found, frames(), strict=True):
    seen = np.asarray(frame, int)[4::8, 4::8]
    assert np.abs(seen - given).mean() < 6
  assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("ending", ["gif", pytest.param("mp4", marks=pytest.mark.skipif(not HAS_FFMPEG, reason="mp4"))])
def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path, ending):
  path = tmp_path / f"a.{ending}"
  path.write_text("old")

  def broken():
    yield from frames(3)
    raise UserError("no more")

  with pytest.raises(UserError, match="no more"):
    write_video(path, broken(), 10)
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ("name", "seconds", "fps", "words"),
  [
    ("a.gif", 0.0, 10, "--seconds"),
    ("a.gif", float("nan"), 10, "--seconds"),
    ("a.gif", 1e9, 10, "--seconds"),
    ("a.gif", 1.0, 0, "--fps"),
    ("a.gif", 1.0, 60, "--fps"),
    ("a.mp4", 1.0, 500, "--fps"),
  ],
)
def test_nonsense_is_refused_before_the_work(name, seconds, fps, words):
  with pytest.raises(UserError, match=words):
    check_video(Path(name), seconds, fps)


def test_an_mp4_without_ffmpeg_names_the_remedy(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install -e '\.\[video\]'.*\.gif"):
    check_video(Path("a.mp4"), 1.0, 10)
  assert check_video(Path("a.gif"), 1.5, 10) == 15
