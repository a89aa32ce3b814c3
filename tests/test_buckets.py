"""A workdir in a bucket, here one in memory: everything but the checkpoints, which orbax and tensorstore write."""

from __future__ import annotations

import json

import fsspec
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from shapegan_jax.checkpoints import claim_workdir, read_config
from shapegan_jax.errors import UserError
from shapegan_jax.files import aside, located
from shapegan_jax.reporting.writer import MetricsWriter, write_png

WORKDIR = "gs://bucket/runs/a"


class Bucket(MemoryFileSystem):
  """As real ones, it knows neither appending nor renaming."""

  protocol, store, pseudo_dirs, cachable = "gs", {}, [""], False

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix("gs://"))

  def _open(self, path, mode="rb", **options):
    assert "a" not in mode, "nothing can be appended to"
    return super()._open(path, mode, **options)

  def mv(self, *args, **options):
    raise AssertionError("renaming is copying and deleting")

  rename = move = mv


@pytest.fixture
def bucket(monkeypatch):
  bucket, files = Bucket(), fsspec.filesystem("file")
  bucket.store = {}
  monkeypatch.setattr(
    backend._FileSystemSpecBackend, "_get_filesystem", lambda _, name: bucket if name == "gcs" else files
  )
  monkeypatch.setattr("shapegan_jax.files.find_spec", lambda name: name)  # gcsfs is an extra
  return bucket


def test_config_and_pictures_go_to_a_bucket(bucket):
  claim_workdir(WORKDIR, {"num_steps": 3})
  assert read_config(WORKDIR) == {"num_steps": 3}
  write_png(located(WORKDIR) / "previews" / "step.png", np.zeros((4, 4, 3), np.uint8))
  assert set(bucket.store) == {"/bucket/runs/a/config.json", "/bucket/runs/a/previews/step.png"}


def test_what_fails_leaves_nothing_in_a_bucket(bucket):
  def fail():
    with aside(f"{WORKDIR}/x.json") as place:
      place.write_text("half")
      raise RuntimeError

  with pytest.raises(RuntimeError):
    fail()
  assert not bucket.store


def test_logs_in_a_bucket_are_gone_on_with(bucket):
  writer = MetricsWriter(WORKDIR)
  for step in (1, 2, 3):
    writer.scalars(step, {"loss": step})
    if step == 2:
      writer.flush()  # then the machine is lost: what came after is not in the bucket
  steps = [json.loads(line)["step"] for line in (located(WORKDIR) / "metrics.jsonl").read_text().splitlines()]
  assert steps == [1, 2]
  with_two = MetricsWriter(WORKDIR, first_step=1)
  with_two.scalars(2, {"loss": 0.5})
  with_two.close()
  lines = [json.loads(line) for line in (located(WORKDIR) / "metrics.jsonl").read_text().splitlines()]
  assert [line["loss"] for line in lines] == [1, 0.5]
  assert any("tfevents" in name for name in bucket.store)
  writer.close()


def test_a_bucket_without_the_extra_names_it(monkeypatch):
  monkeypatch.setattr("shapegan_jax.files.find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"\[gcs\]"):
    claim_workdir(WORKDIR, {})
