"""What cannot be written is said before the work begins."""

from __future__ import annotations

import pytest

from shapegan_jax import UserError
from shapegan_jax.reporting.progress import progress
from shapegan_jax.tools.shared.outputs import check_folder, check_output


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
