"""`shapegan plan`: the resources that a training needs, before it starts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import tyro

from shapegan_jax.errors import UserError

if TYPE_CHECKING:
  from shapegan_jax.planning.report import Column


def plan(
  *,
  config: str,
  change: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
  devices: int | None = None,
  named: bool = True,
  measure: bool = False,
  json: bool = False,
) -> None:
  """Plan a training before it starts: arithmetic, memory and time of every stage, and on which devices it fits.

  shapegan plan --config=configs/shadegan.py:celeba --config.num_steps=10000

  Every stage is compiled, nothing is trained and no pictures are needed. Operations are counted, memory is the
  compiler's own plan of a step; times are predicted, for this device from a measurement of one second, for named ones
  from their data sheets. The data set's pictures, previews and evaluation are not included.

  Args:
    config: The file of settings, as FILE or FILE:PRESET, as in training.
    change: NAME=VALUE; --config.NAME=VALUE, as in training, is the same.
    devices: Number of devices that share each batch; by default those of this machine. On a processor any number can
      be planned for.
    named: Also for H200, A100, T4 and TPU v5e and v6e. Their programs differ from a processor's and are compiled here
      as far as that goes.
    measure: Time some steps of each stage on noise instead of predicting this device's time.
    json: Print everything as JSON, in bytes, seconds and operations.
  """
  from shapegan_jax.settings import read_settings

  settings = read_settings(config, change)
  _start(devices, measure)
  from shapegan_jax.planning.report import as_json, as_text
  from shapegan_jax.planning.stages import complete

  settings, remarks = complete(settings)
  columns = _columns(settings, named=named, measure=measure)
  print((as_json if json else as_text)(columns, [*remarks, *_advice(columns)]))


def _start(devices: int | None, measure: bool) -> None:
  """Start jax with this number of devices: virtual ones on a processor, for which programs are planned alike."""
  import jax

  from shapegan_jax.parallel import enable_compilation_cache

  if devices is not None and devices < 1:
    raise UserError(f"--devices={devices}: at least one device is needed")
  if devices is not None and devices > 1 and measure:
    raise UserError("--measure times the devices of this machine; leave --devices out")
  enable_compilation_cache()
  if devices is not None:
    with contextlib.suppress(RuntimeError):  # jax has already started; it may have enough
      jax.config.update("jax_num_cpu_devices", devices)
    if jax.device_count() != devices:
      raise UserError(
        f"--devices={devices}: this machine has {jax.device_count()}; "
        "with JAX_PLATFORMS=cpu in front the processor's compiler stands in for any number"
      )


def _columns(settings: dict[str, Any], *, named: bool, measure: bool) -> list[Column]:
  """The columns of this machine and of the named devices."""
  import jax

  from shapegan_jax.planning.devices import NAMED, this_device
  from shapegan_jax.planning.report import Column
  from shapegan_jax.planning.stages import for_accelerators, plan_run, step_seconds

  run, device = plan_run(settings, quick=not measure), this_device()
  measured = step_seconds(run) if measure and device.holds(run.memory) is not False else None
  columns = [Column.of(device, run, measured)]
  if named:
    other = for_accelerators(settings) if jax.default_backend() == "cpu" else settings
    there = run if other == settings else plan_run(other, quick=True)
    columns += [Column.of(device, there) for device in NAMED]
  return columns


def _advice(columns: list[Column]) -> list[str]:
  """For every device that is too small for the run, what makes it fit."""
  from shapegan_jax.methods.volume_gan.renderer import device_chunk_points
  from shapegan_jax.planning.advice import suggestion

  found = []
  for column in columns:
    if column.fits is False:
      words = suggestion(column.run, column.device.limit, device_chunk_points())
      found.append(f"{column.device.name}: the largest stage does not fit; what makes it fit: {words}")
  return found
