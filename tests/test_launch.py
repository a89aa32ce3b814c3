"""The files in launch/ call what exists, say what they cost, and come back after pre-emption, with stand-ins for the
cloud's commands."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "launch"
FILES = ("tpu_vm.sh", "slurm.sbatch", "skypilot.yaml", "kubernetes.yaml")
FLAGS = {"config", "workdir", "mode", "coordinator", "num_processes", "process_id"}
STOPPED = 75  # shapegan_jax.main: asked to stop before the end, the same command goes on

# sky/utils/schemas.py of SkyPilot, as far as files like ours need it.
SKY_TASK = {"name", "workdir", "num_nodes", "resources", "file_mounts", "envs", "secrets", "setup", "run"}
SKY_RESOURCES = {
  "infra",
  "accelerators",
  "instance_type",
  "use_spot",
  "disk_size",
  "image_id",
  "any_of",
  "job_recovery",
}
SKY_RECOVERY = {"strategy": str, "max_restarts_on_errors": int, "recover_on_exit_codes": list}


def text(name: str) -> str:
  return (LAUNCH / name).read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
  return list(yaml.safe_load_all(text(name)))


def head(name: str) -> str:
  """The comment that a file opens with."""
  lines = text(name).splitlines()
  lines = lines[1:] if lines[0].startswith("#!") else lines
  return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
  """A function that puts a command into PATH: it notes its arguments, then does what its script says."""
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  monkeypatch.setenv("STATE", str(tmp_path / "state"))

  def add(name: str, script: str) -> None:
    path = tmp_path / name
    path.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "{name} $*" >> "$CALLS"\n{script}\n')
    path.chmod(0o755)

  return add


def calls(tmp_path: Path) -> list[str]:
  path = tmp_path / "calls"
  return path.read_text().splitlines() if path.exists() else []


def bash(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess:
  return subprocess.run(["bash", *words], input=stdin or "", capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", FILES)
def test_each_is_a_page_that_says_how_it_is_called_and_what_drives_the_cost(name):
  assert len(text(name).splitlines()) <= 90
  assert f"launch/{name}" in head(name)
  assert "\n# Cost: " in head(name)
  assert not re.search(r"[$€£] ?\d|\d ?(USD|EUR|dollars)", head(name)), "prices change: say where they are listed"


@pytest.mark.parametrize("name", FILES)
def test_each_names_flags_and_presets_that_exist(name):
  flags = set(re.findall(r"(?<![\w-])--(config|workdir|mode|coordinator|num_process\w*|process\w*)\b", text(name)))
  assert flags <= FLAGS
  assert {"config", "workdir", "coordinator"} <= flags
  assert "shapegan_jax.main" in text(name)
  presets = set(re.findall(r"configs/(\w+)\.py:(\w+)", text(name)))
  assert presets
  for config, preset in presets:
    importlib.import_module(f"configs.{config}").get_config(preset)


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_scripts_are_bash(name):
  done = bash("-n", str(LAUNCH / name))
  assert done.returncode == 0, done.stderr
  assert bash("-n", stdin="if true; then").returncode != 0  # it does look


def test_tpu_script_explains_itself_and_passes_its_arguments_on(tmp_path, stand_ins):
  assert os.access(LAUNCH / "tpu_vm.sh", os.X_OK)
  assert bash(str(LAUNCH / "tpu_vm.sh")).returncode == 2
  stand_ins("tar", "")
  stand_ins("gcloud", 'case "$*" in *describe*) echo ACTIVE ;; esac')
  done = bash(str(LAUNCH / "tpu_vm.sh"), "run", "--config=configs/gof.py", "--config.stages.samples=(6, 8)")
  assert done.returncode == 0, done.stderr
  log = "\n".join(calls(tmp_path))
  assert log.count("gcloud ") == log.count("--zone=us-west4-a") == 3  # describe, scp, ssh
  ssh = log[log.index("tpu-vm ssh shapegan --worker=all") :]
  words = shlex.split(ssh[ssh.index("python -m") :].splitlines()[0])
  assert words[3:6] == ["--config=configs/gof.py", "--config.stages.samples=(6, 8)", "--coordinator=auto"]
  assert "scp" in log


CLOUD = """
touch "$STATE"
case "$*" in
  *describe*) [ -s "$STATE" ] || exit 1; cat "$STATE"; sed -i s/WAITING_FOR_RESOURCES/ACTIVE/ "$STATE" ;;
  *create*) echo WAITING_FOR_RESOURCES > "$STATE" ;;
  *delete*) : > "$STATE" ;;
  *ssh*) if [ ! -e "$STATE.lost" ]; then echo "$LOSS" > "$STATE"; touch "$STATE.lost"; exit 1; fi ;;
esac
"""


def test_tpu_script_goes_on_with_another_slice_after_preemption(tmp_path, stand_ins, monkeypatch):
  stand_ins("tar", "")
  stand_ins("gcloud", CLOUD)
  monkeypatch.setenv("PAUSE", "0")
  monkeypatch.setenv("LOSS", "SUSPENDED")
  done = bash(str(LAUNCH / "tpu_vm.sh"), "resume", "--config=configs/gof.py", "--workdir=gs://b/runs/gof")
  assert done.returncode == 0, done.stderr
  verbs = [word for line in calls(tmp_path) for word in ("create", "delete", "ssh") if f" {word} " in line]
  assert verbs == ["create", "ssh", "delete", "create", "ssh"]
  made = next(line for line in calls(tmp_path) if " create " in line)
  assert {"--spot", "--node-id=shapegan", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(made.split())


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_tpu_script_begins_where_a_slice_was_lost(state, tmp_path, stand_ins, monkeypatch):
  stand_ins("tar", "")
  stand_ins("gcloud", CLOUD)
  monkeypatch.setenv("PAUSE", "0")
  (tmp_path / "state").write_text(state)
  (tmp_path / "state.lost").touch()
  assert bash(str(LAUNCH / "tpu_vm.sh"), "resume", "--config=configs/gof.py").returncode == 0
  verbs = [word for line in calls(tmp_path) for word in ("create", "delete", "ssh") if f" {word} " in line]
  assert verbs == ["delete", "create", "ssh"]


def test_tpu_script_does_not_try_a_faulty_run_again(tmp_path, stand_ins, monkeypatch):
  stand_ins("tar", "")
  stand_ins("gcloud", CLOUD)
  monkeypatch.setenv("PAUSE", "0")
  monkeypatch.setenv("LOSS", "ACTIVE")
  assert bash(str(LAUNCH / "tpu_vm.sh"), "create").returncode == 0
  done = bash(str(LAUNCH / "tpu_vm.sh"), "resume", "--config=configs/gof.py")
  assert done.returncode == 1
  assert "the run itself failed" in done.stderr
  assert not any(" delete " in line for line in calls(tmp_path))


def directives() -> dict[str, str]:
  """The options of sbatch, which reads them up to the first command."""
  found = {}
  for line in text("slurm.sbatch").splitlines():
    if line.startswith("#SBATCH --"):
      name, _, value = line.removeprefix("#SBATCH --").partition("=")
      found[name] = value
    elif line.strip() and not line.startswith("#"):
      break
  return found


def test_slurm_gives_each_gpu_a_task_that_sees_all_gpus():
  options = directives()
  assert text("slurm.sbatch").count("\n#SBATCH") == len(options), "a directive after the first command is ignored"
  assert options["gres"] == f"gpu:{options['ntasks-per-node']}"
  assert not {"gpus-per-task", "gpu-bind"} & set(options)
  assert re.fullmatch(r"TERM@\d+", options["signal"])  # B: would tell only the batch script
  assert "requeue" in options
  assert options["open-mode"] == "append"


@pytest.mark.parametrize(("code", "comes_back"), [(0, False), (1, False), (2, False), (STOPPED, True)])
def test_slurm_job_comes_back_when_it_was_stopped(code, comes_back, tmp_path, stand_ins, monkeypatch):
  stand_ins("srun", f"exit {code}")
  stand_ins("scontrol", "")
  monkeypatch.setenv("SLURM_JOB_ID", "17")
  done = bash(str(LAUNCH / "slurm.sbatch"), "--config=configs/gof.py", "--workdir=runs/a b")
  assert done.returncode == code
  first, *rest = calls(tmp_path)
  assert first.endswith("python -m shapegan_jax.main --config=configs/gof.py --workdir=runs/a b --coordinator=auto")
  assert rest == (["scontrol requeue 17"] if comes_back else [])


def test_skypilot_task_has_known_fields_and_recovers():
  (task,) = documents("skypilot.yaml")
  assert set(task) <= SKY_TASK
  resources = task["resources"]
  assert set(resources) <= SKY_RESOURCES
  assert resources["use_spot"] is True
  recovery = resources["job_recovery"]
  assert all(isinstance(value, SKY_RECOVERY[name]) for name, value in recovery.items())
  assert STOPPED in recovery["recover_on_exit_codes"]
  assert all(value is None or isinstance(value, str) for value in task["envs"].values())
  assert task["envs"]["WORKDIR"] is None  # has to be given: what is not in a bucket is lost


def test_skypilot_tells_each_machine_its_place(tmp_path, stand_ins, monkeypatch):
  (task,) = documents("skypilot.yaml")
  for part in ("setup", "run"):
    assert bash("-n", stdin=task[part]).returncode == 0
  stand_ins("python", "")
  (tmp_path / "venv/bin").mkdir(parents=True)
  (tmp_path / "venv/bin/activate").touch()
  told = {"NODE_IPS": "10.0.0.5\n10.0.0.6", "NODE_RANK": "1", "NUM_NODES": "2", "NUM_GPUS_PER_NODE": "8"}
  environment = {f"SKYPILOT_{name}": value for name, value in told.items()}
  environment |= {
    "HOME": str(tmp_path),
    "CONFIG": "configs/gof.py",
    "WORKDIR": "gs://b/run",
    "FLAGS": "--config.seed=3",
  }
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert bash(stdin=task["run"]).returncode == 0
  assert shlex.split(calls(tmp_path)[0])[3:] == [
    "--config=configs/gof.py",
    "--workdir=gs://b/run",
    "--config.seed=3",
    "--coordinator=10.0.0.5:8476",
    "--num_processes=2",
    "--process_id=1",
  ]


def test_kubernetes_job_is_indexed_and_its_pods_find_pod_0():
  service, job = documents("kubernetes.yaml")
  assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
  assert service["spec"]["clusterIP"] == "None"  # headless: a string, not null
  assert service["spec"]["publishNotReadyAddresses"] is True
  assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
  assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
  spec, pod = job["spec"], job["spec"]["template"]["spec"]
  assert spec["completionMode"] == "Indexed"
  assert spec["completions"] == spec["parallelism"]
  assert pod["subdomain"] == service["metadata"]["name"]
  (container,) = pod["containers"]
  arguments = dict(word.removeprefix("--").split("=", 1) for word in container["args"])
  assert container["command"] == ["python", "-m", "shapegan_jax.main"]
  assert set(arguments) <= FLAGS
  assert arguments["num_processes"] == str(spec["completions"])
  assert arguments["process_id"] == "$(JOB_COMPLETION_INDEX)"
  assert re.fullmatch(rf"{job['metadata']['name']}-0\.{pod['subdomain']}:\d+", arguments["coordinator"])
  mounts = {mount["name"] for mount in container["volumeMounts"]}
  assert mounts == {volume["name"] for volume in pod["volumes"]}
  assert all(isinstance(entry["value"], str) for entry in container["env"])


def test_kubernetes_counts_no_lost_pod_as_a_failure():
  spec = documents("kubernetes.yaml")[1]["spec"]
  assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what podFailurePolicy needs
  ignored = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
  assert [{"type": "DisruptionTarget"}] in [rule.get("onPodConditions") for rule in ignored]
  codes = [rule["onExitCodes"] for rule in ignored if "onExitCodes" in rule]
  assert [(c["operator"], c["values"]) for c in codes] == [("In", [STOPPED])]
  assert codes[0]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]


def test_explicit_places_are_flags_of_main():
  # What the files above hand over is what the program takes, in a process of its own: flags are global.
  code = "from absl import flags; import shapegan_jax.main; print(*flags.FLAGS)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
  assert set(done.stdout.split()) >= FLAGS
