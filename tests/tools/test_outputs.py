"""Files appear whole or not at all, and what cannot be written is said before the work begins."""

from __future__ import annotations

import pytest

from shapegan_jax import UserError
from shapegan_jax.tools.outputs import aside, check_folder, check_output, progress


def test_a_file_appears_when_it_is_whole(tmp_path):
  path = tmp_path / "deep" / "a.png"
  with aside(path) as place:
    place.write_text("new")
    assert place.suffix == ".png"
    assert not path.exists()
  assert path.read_text() == "new"
  assert list(path.parent.iterdir()) == [path]


def test_after_a_failure_all_is_as_before(tmp_path):
  path = tmp_path / "a.png"
  path.write_text("old")

  def write_half(path, folder):
    with aside(path) as place:
      if folder:
        place.mkdir()
        place = place / "part"
      place.write_text("half")
      raise RuntimeError

  for target, folder in ((path, False), (tmp_path / "folder", True)):
    with pytest.raises(RuntimeError):
      write_half(target, folder)
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_cannot_be_is_refused(tmp_path):
  file = tmp_path / "file"
  file.write_text("")
  for path in (tmp_path, tmp_path / "a.txt", tmp_path / "a", file / "a.png"):
    with pytest.raises(UserError, match=r"--output=.*; (name|choose)"):
      check_output(path, (".png", ".gif"))
  with pytest.raises(UserError, match="is a file"):
    check_folder(file, "--workdir")
  assert check_output(tmp_path / "new" / "a.PNG", (".png",)).name == "a.PNG"
  assert check_folder(tmp_path / "new" / "newer").name == "newer"


def test_progress_hands_on_everything():
  assert list(progress(iter(range(3)), "counting", total=3)) == [0, 1, 2]
