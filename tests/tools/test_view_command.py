"""The viewer shows what was asked for: pictures, camera and light; newest request first; in a real browser too."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_models import saved, tiny

from shapegan_jax import UserError
from shapegan_jax.checkpoints import Checkpoints, write_json
from shapegan_jax.reporting.previews import pictures
from shapegan_jax.rng import root_key
from shapegan_jax.tools.cli import _run
from shapegan_jax.tools.shared.instances import from_seeds
from shapegan_jax.tools.view import view
from shapegan_jax.tools.viewer import panes
from shapegan_jax.tools.viewer.worker import Worker

ROOT = Path(__file__).parents[2]
SIZE = 8
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def model():
  return tiny("shadegan")


@pytest.fixture(scope="module")
def shapes(model):
  return panes.Shapes(model)


def asked(model, **changes) -> panes.View:
  return panes.View(light=panes.light_numbers(model.mean_lights()), **changes)


def test_a_view_is_what_the_model_renders(model, shapes):
  subject = from_seeds(model, (3,))
  cameras = model.cameras_at(np.array([0.4], np.float32), np.array([-0.2], np.float32))
  # The outermost pixels' edges, not their centres, are at the ends of the field of view.
  cameras = dataclasses.replace(cameras, fov=2 * jnp.arctan(jnp.tan(cameras.fov / 2) * (SIZE - 1) / SIZE))
  rendering = model.render(subject.latents, cameras, subject.lights, resolution=SIZE)
  drawn = panes.draw(shapes, asked(model, first=3, yaw=0.4, pitch=-0.2), SIZE)
  assert list(drawn) == ["image", "albedo", "shading", "normals", "depth"]
  for name, picture in pictures(rendering, cameras).items():
    np.testing.assert_allclose(drawn[name], picture[0], atol=2e-5, err_msg=name)


def test_walk_and_truncation_are_those_of_the_codes(model, shapes):
  first, second = (model.codes(from_seeds(model, (seed,)).latents).values for seed in (0, 1))
  half = model.codes(from_seeds(model, (1,)).latents, truncation=0.5).values
  for wanted, expected in (
    (panes.View(), first),
    (panes.View(mix=1.0), second),
    (panes.View(mix=0.25), [a + (b - a) / 4 for a, b in zip(first, second, strict=True)]),
    (panes.View(first=1, truncation=0.5), half),
  ):
    for found, code in zip(shapes.blend(wanted).values, expected, strict=True):
      np.testing.assert_allclose(found, code, atol=1e-5)


def test_zoom_shows_the_middle_larger(model, shapes):
  wide = panes.draw(shapes, asked(model, zoom=0.5), 2 * SIZE)["image"]
  near = panes.draw(shapes, asked(model), SIZE)["image"]
  np.testing.assert_allclose(near, wide[SIZE // 2 : -SIZE // 2, SIZE // 2 : -SIZE // 2], atol=1e-3)
  assert panes.zooms(model)
  tracked = dataclasses.replace(model.method.tracking, enabled=True, inference=True)
  assert not panes.zooms(dataclasses.replace(model, method=dataclasses.replace(model.method, tracking=tracked)))


def test_a_light_has_the_angles_of_a_camera(model):
  lights = model.sample_lights(1, jax.random.key(1))
  again = panes.lights_of(panes.View(light=panes.light_numbers(lights)))
  np.testing.assert_allclose(again.code, lights.code, atol=1e-5)
  lit = panes.lights_of(panes.View(light=(0.3, 0.6, 0.5, -0.4)))
  np.testing.assert_allclose(lit.direction[0], panes.orbit_position(0.5, -0.4, 1.0), atol=1e-6)
  np.testing.assert_allclose([lit.ambient[0], lit.diffuse[0]], [0.3, 0.6], atol=1e-6)
  assert panes.lights_of(panes.View()) is None
  assert panes.light_numbers(None) is None


def test_a_browser_orbits_as_the_models_cameras_do(model):
  for yaw, pitch, distance in ((0.0, 0.0, 1.0), (0.7, -0.3, 2.0), (-2.5, 1.2, 0.5)):
    position = panes.orbit_position(yaw, pitch, distance)
    np.testing.assert_allclose(panes.orbit_of(position + 0.3, np.full(3, 0.3)), (yaw, pitch, distance), atol=1e-9)
    camera = panes.cameras_of(model, panes.View(yaw=yaw, pitch=pitch), SIZE)
    np.testing.assert_allclose(camera.cam2world[0, :3, 3], position / distance * camera.radius[0], atol=1e-6)
  above = panes.orbit_of(np.array([0.0, 1.0, 0.0]), np.zeros(3))
  assert above[1] == panes.MAX_PITCH, "the pole itself has no yaw"


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (210, 200), (1000, 100)])
def test_the_large_picture_is_where_a_scene_would_be(width, height):
  """What a camera of `canvas_fov` sees at the edge of the picture's field of view falls on the picture's edge."""
  named = {name: np.full((4, 4, 3), level) for name, level in (("image", 0.0), ("depth", 0.5), ("normals", 0.25))}
  canvas = panes.compose(named, "image", width, height)
  side = height * math.tan(0.1) / math.tan(panes.canvas_fov(0.2, width, height) / 2)
  rows, columns = np.nonzero((canvas == 0).all(-1))
  for found, length in ((rows, height), (columns, width)):
    assert abs(found.min() - (length - side) / 2) <= 1
    assert abs(found.max() + 1 - (length + side) / 2) <= 1
  for level in (128, 64):
    small = np.nonzero((canvas == level).all(-1))
    assert len(small[0]) >= (side // 4 - 15) ** 2, "every other picture is there, above its name"
  other = panes.compose(named, "depth", width, height)
  assert tuple(other[height // 2, width // 2]) == (128,) * 3
  assert np.array_equal(panes.compose(named, "albedo", width, height), canvas), "an unknown one is the first"


def finished(condition, seconds: float = 20.0) -> bool:
  """Whether it becomes true in time."""
  end = time.monotonic() + seconds
  while not condition() and time.monotonic() < end:
    time.sleep(0.01)
  return bool(condition())


def test_the_newest_request_wins_and_rest_is_drawn_in_full():
  drawn, busy, free, troubles = [], threading.Event(), threading.Event(), []

  def draw(wanted, size):
    drawn.append((wanted, size))
    if wanted == "first":
      busy.set()
      free.wait(20)
    if wanted == "bad":
      raise ValueError("bad")

  worker = Worker(draw, small=1, full=2, settle=0.05, failed=troubles.append, every=0.01)
  worker.start()
  worker.request("first")
  assert busy.wait(20)
  for wanted in ("second", "third", "last"):
    worker.request(wanted)
  free.set()
  assert finished(lambda: ("last", 2) in drawn)
  assert drawn == [("first", 1), ("last", 1), ("last", 2)]
  worker.request("last")
  time.sleep(0.1)
  assert len(drawn) == 3, "it is there already"
  worker.request("bad")
  worker.request("last", again=True)
  assert finished(lambda: len(drawn) > 3 and drawn[-1] == ("last", 2))
  worker.request("bad")
  assert finished(lambda: len(troubles) > 0)
  worker.request("after")
  assert finished(lambda: ("after", 2) in drawn), "a failure does not end the thread"
  worker.stop()
  assert not worker._thread.is_alive()


def test_mistakes_are_one_line_each(tmp_path, monkeypatch):
  pytest.importorskip("viser")
  good = f"--model={saved(tmp_path, 'shadegan')}"
  with socket.create_server(("127.0.0.1", 0)) as other:
    taken = other.getsockname()[1]
    for arguments, words in (
      ((), "--model"),
      (("--model=nowhere", "--port=0"), "nowhere: no such model"),
      ((good, f"--port={taken}"), f"--port={taken}: cannot listen"),
      ((good, "--port=70000"), "--port=70000"),
      ((good, "--port=0", "--host=no.such.host.invalid"), "no.such.host.invalid"),
      ((good, "--port=0", "--resolution=4"), "--resolution=4"),
      ((good, "--port=0", f"--codes={tmp_path / 'absent'}"), "absent: no such file"),
    ):
      with pytest.raises(UserError) as caught:
        _run(view, "view", list(arguments))
      assert words in str(caught.value)
      assert "\n" not in str(caught.value)
  find = importlib.util.find_spec
  monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "viser" else find(name, *a))
  with pytest.raises(UserError, match=r"pip install -e '\.\[viewer\]'"):
    _run(view, "view", [good])


SERVE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background has it ignored
from shapegan_jax.tools.cli import _run
from shapegan_jax.tools.view import view
_run(view, "view", sys.argv[1:])
"""


def test_the_command_serves_until_ctrl_c(tmp_path):
  pytest.importorskip("viser")
  arguments = [f"--model={saved(tmp_path, 'shadegan')}", "--port=0", "--resolution=8"]
  environment = os.environ | {"PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(tmp_path)}
  with subprocess.Popen(
    [sys.executable, "-c", SERVE, *arguments],
    cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  ) as process:  # fmt: skip
    try:
      line = process.stdout.readline()
      assert "http://127.0.0.1:" in line, line + process.stderr.read()
      with urllib.request.urlopen(line.split("open ")[1].split()[0], timeout=20) as answer:
        assert answer.status == 200
        assert b"<html" in answer.read()
      process.send_signal(signal.SIGINT)  # while the first picture is being compiled
      out, err = process.communicate(timeout=60)
    finally:
      process.kill()
  assert process.returncode == 0, err
  assert out.strip() == "ended"
  assert "Traceback" not in err


@pytest.fixture
def serve():
  """A function that starts viewers, which are stopped at the end."""
  pytest.importorskip("viser")
  from shapegan_jax.tools.viewer.page import Viewer

  running = []

  def start(model, **settings):
    running.append(Viewer(model, host="127.0.0.1", port=0, resolution=SIZE, **settings))
    return running[-1]

  yield start
  for viewer in running:
    viewer.stop()


def test_a_newer_checkpoint_is_shown_as_it_appears(model, serve, tmp_path, monkeypatch):
  monkeypatch.setattr("shapegan_jax.tools.viewer.page.LOOK_SECONDS", 0.1)
  first, second = (jax.jit(model.method.init)(root_key(seed)) for seed in (0, 1))
  write_json(tmp_path / "config.json", model.config)
  with Checkpoints(tmp_path, asynchronous=False) as checkpoints:
    checkpoints.save(1, first)
    viewer = serve(dataclasses.replace(model, step=1), workdir=tmp_path)
    assert finished(lambda: viewer.shown is not None)
    checkpoints.save(7, second)
  assert finished(lambda: viewer.view().step == 7)
  expected = panes.draw(panes.Shapes(dataclasses.replace(model, params=second.ema_params)), viewer.view(), SIZE)
  assert finished(lambda: np.allclose(viewer.shown["image"], expected["image"], atol=1e-5))
  assert "step 7" in viewer.note


def test_play_walks_to_and_fro_and_codes_are_shapes(model, serve, tmp_path, monkeypatch):
  monkeypatch.setattr("shapegan_jax.tools.viewer.page.WALK_SECONDS", 0.2)
  subjects = from_seeds(model, (4, 5))
  subjects = dataclasses.replace(subjects, latents=model.codes(subjects.latents))
  viewer = serve(model, subjects=subjects)
  expected = panes.draw(panes.Shapes(model), dataclasses.replace(viewer.view(), first=4), SIZE)
  assert finished(lambda: viewer.shown is not None and viewer.shown["image"].shape[0] == SIZE)
  np.testing.assert_allclose(viewer.shown["image"], expected["image"], atol=1e-5)
  viewer.controls.values["playing"].value = True
  seen = []
  assert finished(lambda: (seen.append(viewer.view().mix), len(set(seen)) > 4 and max(seen) == 1.0)[1])
  viewer.controls.values["playing"].value = False
  assert finished(lambda: viewer.view().mix < 1.0 or seen[-1] == 1.0)


def test_the_exported_mesh_is_of_the_shape_that_is_shown(model, shapes, monkeypatch):
  """`shapegan mesh` is given a model and a codes file that draw the very picture."""
  import types

  from shapegan_jax.model import load
  from shapegan_jax.tools.shared.instances import read_codes
  from shapegan_jax.tools.viewer.export import export_mesh

  wanted, told = asked(model, first=2, mix=0.5, truncation=0.7, yaw=0.3), {}

  def mesh(*, model, codes, output, resolution):
    read = load(model)
    subject = read_codes(codes, read)
    cameras = dataclasses.replace(subject.cameras, fov=panes.cameras_of(read, wanted, SIZE).fov)
    told["image"] = read.render(subject.latents, cameras, subject.lights, resolution=SIZE).rgb[0]
    told["resolution"] = resolution
    output.write_bytes(b"mesh")

  monkeypatch.setitem(sys.modules, "shapegan_jax.tools.mesh", types.SimpleNamespace(mesh=mesh))
  assert export_mesh(shapes, wanted, ".glb", 32) == b"mesh"
  assert told["resolution"] == 32
  np.testing.assert_allclose(told["image"], panes.draw(shapes, wanted, SIZE)["image"], atol=2e-5)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_picture_and_its_camera_turns_it(model, serve):
  playwright = pytest.importorskip("playwright.sync_api")
  viewer = serve(model)
  assert finished(lambda: viewer.shown is not None and viewer.shown["image"].shape[0] == SIZE)
  quiet = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")
  drawing = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")

  def settled(page) -> float:
    """Mean difference of what the page shows from what it should, over the large picture (below viser's notice)."""
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), np.float64)
    canvas = page.locator("canvas").first.bounding_box()
    width, height = int(canvas["width"]), int(canvas["height"])
    expected = panes.compose(viewer.shown, "image", width, height)
    side = round(height * math.tan(0.1) / math.tan(panes.canvas_fov(0.2, width, height) / 2))
    rows, columns = slice(height // 3, None), slice((width - side) // 2, (width + side) // 2)
    left, top = int(canvas["x"]), int(canvas["y"])
    screen = screen[top : top + height, left : left + width]
    return float(np.abs(screen[rows, columns] - expected[rows, columns].astype(np.float64)).mean())

  with playwright.sync_playwright() as play:
    browser = play.chromium.launch(executable_path=CHROMIUM, args=[*quiet, *drawing])
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(viewer.address)
    page.get_by_text("truncation").wait_for(timeout=30_000)
    assert finished(lambda: settled(page) < 2.0), settled(page)
    # Pulling the object to the left brings its left side, at +x, into view.
    page.mouse.move(400, 300)
    page.mouse.down()
    page.mouse.move(320, 300, steps=5)
    page.mouse.up()
    assert finished(lambda: viewer.view().yaw > 0.2), viewer.view()
    assert abs(viewer.view().pitch) < 0.1
    assert finished(lambda: viewer.shown["image"].shape[0] == SIZE and settled(page) < 2.0)
    page.set_viewport_size({"width": 1200, "height": 600})
    assert finished(lambda: settled(page) < 2.0), "a wider window shows the picture no wider"
    page.get_by_text("Back to the start").click()
    assert finished(lambda: abs(viewer.view().yaw) < 1e-3)
    assert wrong == []
    browser.close()
