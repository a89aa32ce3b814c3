"""The viewer's page: what happens when a control or a browser's camera moves (viser).

All browsers see the same thing. The thread of `viewer.worker` renders; callbacks only request views.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import viser

from shapegan_jax.checkpoints import Checkpoints
from shapegan_jax.errors import UserError
from shapegan_jax.model import Model, from_workdir
from shapegan_jax.tools.shared.instances import Instances
from shapegan_jax.tools.viewer import panes
from shapegan_jax.tools.viewer.controls import ZOOMS, Controls
from shapegan_jax.tools.viewer.export import export_mesh
from shapegan_jax.tools.viewer.worker import Worker

WALK_SECONDS = 5.0  # from the first shape to the second
LOOK_SECONDS = 5.0  # between checks for a newer checkpoint
_ECHO_SECONDS = 0.5  # browsers echo the camera they are set to: for this long, changes are not from the user
_FRAME_SECONDS = 0.05
_LONGEST, _SMALLEST = 1280, 64  # pixels of a canvas


class Viewer:
  """A server that shows a model until `stop`."""

  def __init__(
    self,
    model: Model,
    *,
    host: str,
    port: int,
    resolution: int,
    name: str = "shapegan",
    workdir: Path | None = None,
    subjects: Instances | None = None,
  ):
    """Args:
    host, port: where to listen; port 0: any that is free. See `address`.
    resolution: height and width of still pictures in pixels.
    name: title above the controls.
    workdir: where newer checkpoints of the model may appear.
    subjects: the shapes of a codes file, shown instead of those of seeds.
    """
    self._shapes, self._workdir, self._subjects = panes.Shapes(model, subjects), workdir, subjects
    start = model.central_cameras() if subjects is None else subjects[0].cameras
    lights = model.mean_lights() if subjects is None else subjects[0].lights
    self._home = panes.View(
      second=min(1, len(subjects) - 1) if subjects else 1,
      yaw=float(start.yaw[0]),
      pitch=float(start.pitch[0]),
      light=panes.light_numbers(lights),
      step=model.step,
    )
    self._fov, self._radius = float(start.fov[0]), float(start.radius[0])
    self.shown: dict[str, np.ndarray] | None = None  # the last pictures drawn
    self._placed: dict[int, float] = {}  # client -> when its camera was last set from here
    self._canvases: dict[int, tuple[int, int]] = {}  # client -> the size of the picture it was sent
    self._direction, self._walked = 1.0, time.monotonic()
    self._looked = time.monotonic()
    self._mesh, self._meshed = None, None  # in the scene, and the shape it is of
    self._exporting = threading.Lock()
    self._worker = Worker(
      self._draw,
      small=max(16, min(48, resolution // 2)),
      full=resolution,
      between=self._between,
      failed=self._failed,
    )
    # viser prints boxes of its own at start and end.
    with contextlib.redirect_stdout(io.StringIO()):
      self._server = viser.ViserServer(host=host, port=port, label=name, verbose=False)
    self.address = f"http://{'localhost' if host == '0.0.0.0' else host}:{self._server.get_port()}"
    self._set_scene()
    self.controls = Controls(
      self._server.gui,
      self._home,
      last=None if subjects is None else len(subjects) - 1,
      surface=model.method.has_surface,
      zooms=panes.zooms(model),
    )
    self._connect()
    self._worker.start()
    self._ask()

  def stop(self) -> bool:
    """Stop drawing and close the server. Returns False if the thread is still rendering (XLA cannot be interrupted)."""
    ended = self._worker.stop()
    with contextlib.redirect_stdout(io.StringIO()):
      self._server.stop()
    return ended

  def view(self) -> panes.View:
    """The requested view."""
    return self.controls.view(self._shapes.model.step)

  @property
  def note(self) -> str:
    """The line above the controls."""
    return self.controls.note.content

  def _set_scene(self) -> None:
    server, home = self._server, self._home
    server.scene.set_up_direction("+y")
    camera = server.initial_camera
    camera.position = panes.orbit_position(home.yaw, home.pitch, self._radius)
    camera.look_at, camera.up, camera.fov = np.zeros(3), np.array([0.0, 1.0, 0.0]), self._fov
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()

  def _connect(self) -> None:
    """What happens when something is touched."""
    controls, server = self.controls, self._server
    controls.on_change(self._turned, lambda event: self._ask())
    controls.back.on_click(lambda event: self._return())
    controls.export.on_click(self._export)
    controls.mesh_shown.on_update(lambda event: self._hide_mesh())
    server.on_client_connect(self._joined)
    server.on_client_disconnect(self._left)

  def _ask(self) -> None:
    self._worker.request(self.view())

  def _return(self) -> None:
    self.controls.reset()
    self._place_all()

  # The browsers' cameras.

  def _joined(self, client: viser.ClientHandle) -> None:
    low, high = ZOOMS if panes.zooms(self._shapes.model) else (1.0, 1.0)
    client.camera.min_orbit_distance, client.camera.max_orbit_distance = self._radius / high, self._radius / low
    self._place(client)
    client.camera.on_update(lambda camera: self._moved(client))
    self._show(client)

  def _left(self, client: viser.ClientHandle) -> None:
    self._placed.pop(client.client_id, None)
    self._canvases.pop(client.client_id, None)

  def _place(self, client: viser.ClientHandle) -> None:
    """Set a browser's camera to that of the controls."""
    view = self.view()
    self._placed[client.client_id] = time.monotonic()
    with client.atomic():
      client.camera.fov = panes.canvas_fov(self._fov, *_canvas(client))
      client.camera.up_direction = (0.0, 1.0, 0.0)
      client.camera.position = panes.orbit_position(view.yaw, view.pitch, self._radius / view.zoom)
      client.camera.look_at = (0.0, 0.0, 0.0)

  def _place_all(self, but: int | None = None) -> None:
    for number, client in self._server.get_clients().items():
      if number != but:
        self._place(client)

  def _turned(self, event: viser.GuiEvent) -> None:
    """A camera slider moved: by the user, or because a browser's camera did."""
    if event.client is not None:
      self._place_all()
    self._ask()

  def _moved(self, client: viser.ClientHandle) -> None:
    """A browser's camera moved, or its window changed."""
    if self._canvases.get(client.client_id) != _canvas(client):
      client.camera.fov = panes.canvas_fov(self._fov, *_canvas(client))
      self._show(client)
    if time.monotonic() - self._placed.get(client.client_id, 0.0) < _ECHO_SECONDS:
      return
    yaw, pitch, distance = panes.orbit_of(client.camera.position, client.camera.look_at)
    if self.controls.turn(yaw, pitch, self._radius / max(distance, 1e-6)):
      self._place_all(but=client.client_id)

  # In the worker's thread.

  def _draw(self, view: panes.View, resolution: int) -> None:
    begun = time.monotonic()
    self.shown = panes.draw(self._shapes, view, resolution)
    self.controls.offer(tuple(self.shown))
    if self._meshed is not None and self._meshed != _shape_of(view):
      self._hide_mesh()
    for client in self._server.get_clients().values():
      self._show(client)
    seconds = time.monotonic() - begun
    self.controls.say(f"step {view.step:,} · {resolution}×{resolution} · {seconds:.2f} s")

  def _show(self, client: viser.ClientHandle) -> None:
    if self.shown is not None:
      size = self._canvases[client.client_id] = _canvas(client)
      picture = panes.compose(self.shown, self.controls.values["pane"].value, *size)
      if client.client_id in self._server.get_clients():  # it may have disconnected meanwhile
        client.scene.set_background_image(picture, format="jpeg", jpeg_quality=92)

  def _between(self) -> None:
    now = time.monotonic()
    if self.controls.values["playing"].value:
      passed, self._walked = min(now - self._walked, 0.5), now
      mix = self.controls.values["mix"].value + self._direction * passed / WALK_SECONDS
      if not 0.0 <= mix <= 1.0:
        self._direction = -self._direction
      self.controls.values["mix"].value = min(1.0, max(0.0, mix))
      time.sleep(max(0.0, _FRAME_SECONDS - passed))
    else:
      self._walked = now
    if self._workdir is not None and now - self._looked > LOOK_SECONDS:
      self._take_newer()
      self._looked = time.monotonic()

  def _take_newer(self) -> None:
    """Load the newest checkpoint if it is newer than the one shown. Nothing is compiled again."""
    model = self._shapes.model
    with Checkpoints(self._workdir, read_only=True) as checkpoints:
      newest = checkpoints.latest_step()
    if newest is not None and newest != model.step:
      fresh = from_workdir(self._workdir, model.method, model.config)
      model = dataclasses.replace(model, params=fresh.params, step=fresh.step)
      self._shapes = panes.Shapes(model, self._subjects)
      self._ask()

  def _failed(self, error: Exception) -> None:
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    self.controls.say(f"error: {reason.splitlines()[0]}")
    print(f"view: {reason.splitlines()[0]}", file=sys.stderr, flush=True)

  # The mesh.

  def _export(self, event: viser.GuiEvent) -> None:
    """Make the mesh of the shown shape, offer it for download, and show it in the scene."""
    if not self._exporting.acquire(blocking=False):
      return
    try:
      self.controls.say("making the mesh ...")
      view, ending = self.view(), self.controls.ending.value
      content = export_mesh(self._shapes, view, ending, int(self.controls.grid.value))
      event.client.send_file_download(f"shape{ending}", content, save_immediately=True)
      self.controls.say(f"mesh: {len(content) / 1e6:.1f} MB")
      self._hide_mesh()
      if self.controls.mesh_shown.value and ending == ".glb":
        self._mesh, self._meshed = self._server.scene.add_glb("/mesh", content), _shape_of(view)
    except Exception as error:
      self._failed(error)
    finally:
      self._exporting.release()

  def _hide_mesh(self) -> None:
    mesh, self._mesh, self._meshed = self._mesh, None, None
    if mesh is not None:
      mesh.remove()


def _shape_of(view: panes.View) -> tuple[Any, ...]:
  return view.first, view.second, view.mix, view.truncation, view.step


def _canvas(client: viser.ClientHandle) -> tuple[int, int]:
  """(width, height) of the picture behind a browser's scene, in its proportions."""
  width, height = client.camera.image_width or 1280, client.camera.image_height or 720
  scale = min(1.0, _LONGEST / max(width, height))
  return max(_SMALLEST, round(width * scale)), max(_SMALLEST, round(height * scale))
