"""Files appear whole or not at all."""

from __future__ import annotations

import pytest

from shapegan_jax import UserError
from shapegan_jax.files import aside


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


@pytest.mark.parametrize("name", ["file/a.png", "x" * 251 + ".png"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
  (tmp_path / "file").write_text("")
  with (
    pytest.raises(UserError, match=r"\.png: cannot be written .*; choose another place"),
    aside(tmp_path / name) as place,
  ):
    place.write_text("")
