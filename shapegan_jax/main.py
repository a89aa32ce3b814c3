"""Train or evaluate a generator of 3D shapes.

python -m shapegan_jax.main --config=configs/shadegan.py --workdir=runs/heads
python -m shapegan_jax.main --config=configs/shadegan.py:smoke --workdir=runs/smoke --config.num_steps=20
python -m shapegan_jax.main --mode=eval --workdir=runs/heads
"""

from __future__ import annotations

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from shapegan_jax.errors import UserError
from shapegan_jax.processes import is_watched, watch
from shapegan_jax.settings import MISTAKES, in_one_line

_CONFIG = config_flags.DEFINE_config_file("config", None, "Settings, as FILE or FILE:PRESET.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; an existing run is resumed.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Several processes: host:port of process 0, or auto.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several processes: which one this is, from 0.")


def main(argv: list[str]) -> None:
  """Do what the flags say. Bad input is one line and exit code 2."""
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # libraries would report every checkpoint in twenty lines
  try:
    if argv[1:]:
      raise UserError(f"{argv[1]!r}: not understood; settings are given as --name=value")
    if not _WORKDIR.value:
      raise UserError("--workdir is missing; name the folder of the run, e.g. --workdir=runs/heads")
    if _CONFIG.value is None and _MODE.value == "train":
      raise UserError("--config is missing; name a file of settings, e.g. --config=configs/shadegan.py")
    config = _CONFIG.value.to_dict() if _CONFIG.value is not None else None
    if _COORDINATOR.value is not None and not is_watched():
      sys.exit(watch())
    from shapegan_jax import parallel

    parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _MODE.value == "train":
      from shapegan_jax.train import train

      sys.exit(75 if int(train(config, _WORKDIR.value).step) < config["num_steps"] else 0)  # 75: stopped, start again
    else:
      from shapegan_jax.evaluation.evaluate import evaluate

      evaluate(config, _WORKDIR.value)
  except UserError as error:
    fail(str(error))
  except KeyboardInterrupt:
    sys.exit(130)


def parse(argv: list[str]) -> list[str]:
  """The flags, understood before jax starts; a mistake in them is one line and exit code 2."""
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is not None:
      _CONFIG.value.to_dict()  # a file that could not be read says so only now
    return rest
  except SystemExit:  # only --help leaves here, by absl's custom with code 1
    sys.exit(0)
  except MISTAKES as error:
    fail(in_one_line(error))


def fail(message: str) -> None:
  """One line on stderr, exit code 2."""
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.exit(2)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
