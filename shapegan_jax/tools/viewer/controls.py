"""The viewer's panel: sliders and buttons, and the `View` that they select."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import viser

from shapegan_jax.tools.viewer.panes import View

CAMERA = ("yaw", "pitch", "zoom")
ZOOMS = (0.5, 4.0)
_MAX_LIGHT, _MAX_POWER = 75.0, 1.5  # degrees; of ambient and diffuse


class Controls:
  """The handles of everything a view depends on (`values`, by the names of its fields), and of what is not a view."""

  def __init__(self, gui: viser.GuiApi, home: View, *, last: int | None, surface: bool, zooms: bool):
    """Args:
    home: the initial view.
    last: number of the last shape of a codes file; None: shapes are seeds.
    surface: whether the method can render its surface alone.
    zooms: whether it can zoom.
    """
    self._home = home
    self.note = gui.add_markdown("rendering the first picture ...")
    self.values: dict[str, Any] = {}
    found = self.values
    what, most = ("A seed", 2**32 - 1) if last is None else ("A place in the codes file", last)
    with gui.add_folder("Shape"):
      found["first"] = gui.add_number("first", home.first, min=0, max=most, step=1, hint=what)
      found["second"] = gui.add_number("second", home.second, min=0, max=most, step=1, hint=what)
      found["mix"] = gui.add_slider("walk", 0.0, 1.0, 0.01, home.mix, hint="From the first shape to the second")
      found["playing"] = gui.add_checkbox("play", home.playing, hint="Walk to and fro")
      found["truncation"] = gui.add_slider("truncation", 0.0, 1.0, 0.01, 1.0, hint="Towards 0: the average shape")
    with gui.add_folder("Camera"):
      yaw, pitch = math.degrees(home.yaw), math.degrees(home.pitch)
      found["yaw"] = gui.add_slider("yaw", -180.0, 180.0, 0.5, yaw, hint="Degrees; or drag the picture")
      found["pitch"] = gui.add_slider("pitch", -89.0, 89.0, 0.5, pitch, hint="Degrees; or drag the picture")
      found["zoom"] = gui.add_slider("zoom", *ZOOMS, 0.01, home.zoom, hint="Or turn the wheel", visible=zooms)
      self.back = gui.add_button("Back to the start")
    if home.light is not None:
      with gui.add_folder("Light"):
        for name, label in (("light_yaw", "from yaw"), ("light_pitch", "from pitch")):
          found[name] = gui.add_slider(label, -_MAX_LIGHT, _MAX_LIGHT, 0.5, 0.0, hint="Degrees")
        for name in ("ambient", "diffuse"):
          found[name] = gui.add_slider(name, 0.0, _MAX_POWER, 0.01, 0.0)
      self._reset_light()
    with gui.add_folder("Picture"):
      found["pane"] = gui.add_dropdown("large", (home.pane,), initial_value=home.pane)
      if surface:
        found["surface"] = gui.add_checkbox("surface", False, hint="One colour per ray, where it hits the surface")
    with gui.add_folder("Mesh"):
      self.grid = gui.add_dropdown("grid", ("64", "128", "256"), initial_value="128", hint="Points per side")
      self.ending = gui.add_dropdown("file", (".glb", ".ply", ".obj", ".stl"), initial_value=".glb")
      self.mesh_shown = gui.add_checkbox("show in the scene", True, hint="A .glb, when it is made")
      self.export = gui.add_button("Export the mesh")

  def view(self, step: int) -> View:
    """The selected view, for a model after `step` updates."""
    values = {name: handle.value for name, handle in self.values.items()}
    light = None
    if self._home.light is not None:
      towards = (math.radians(values.pop(name)) for name in ("light_yaw", "light_pitch"))
      light = (values.pop("ambient"), values.pop("diffuse"), *towards)
    angles = {name: math.radians(values.pop(name)) for name in ("yaw", "pitch")}
    return View(**values, **angles, light=light, step=step)

  def on_change(self, of_camera: Callable[[viser.GuiEvent], None], of_other: Callable[[viser.GuiEvent], None]) -> None:
    """Call these functions when a value changes, by the user or not."""
    for name, handle in self.values.items():
      handle.on_update(of_camera if name in CAMERA else of_other)

  def turn(self, yaw: float, pitch: float, zoom: float) -> bool:
    """Set the camera (radians). Returns whether that changed anything."""
    wanted = dict(
      zip(CAMERA, (math.degrees(yaw), math.degrees(pitch), min(ZOOMS[1], max(ZOOMS[0], zoom))), strict=True)
    )
    if all(abs(self.values[name].value - value) < 1e-2 for name, value in wanted.items()):
      return False
    for name, value in wanted.items():
      self.values[name].value = value
    return True

  def reset(self) -> None:
    """Reset camera and light."""
    self.turn(self._home.yaw, self._home.pitch, self._home.zoom)
    self._reset_light()

  def offer(self, names: tuple[str, ...]) -> None:
    """Set the pictures that can be the large one."""
    if self.values["pane"].options != names:
      self.values["pane"].options = names

  def say(self, text: str) -> None:
    """Show a line above all controls."""
    if self.note.content != text:
      self.note.content = text

  def _reset_light(self) -> None:
    if self._home.light is not None:
      names = ("ambient", "diffuse", "light_yaw", "light_pitch")
      ambient, diffuse, *towards = self._home.light
      for name, value in zip(names, (ambient, diffuse, *map(math.degrees, towards)), strict=True):
        low, high = (-_MAX_LIGHT, _MAX_LIGHT) if name.startswith("light") else (0.0, _MAX_POWER)
        self.values[name].value = min(high, max(low, value))
