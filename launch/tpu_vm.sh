#!/usr/bin/env bash
# Train on a Cloud TPU slice: request it, run, resume after preemption, release it.
#
#   export NAME=shapegan ZONE=us-west4-a ACCELERATOR=v5litepod-16
#   launch/tpu_vm.sh create
#   launch/tpu_vm.sh run --config=configs/shadegan.py:heads_large --workdir=gs://BUCKET/runs/heads_large
#   launch/tpu_vm.sh resume --config=configs/shadegan.py:heads_large --workdir=gs://BUCKET/runs/heads_large
#   launch/tpu_vm.sh state
#   launch/tpu_vm.sh delete
#
# `run` waits for the slice, copies this checkout to all its hosts, installs it and trains; its arguments are those of
# shapegan_jax.main. `resume` does the same and, when the slice is preempted, requests another and resumes from the last
# checkpoint, until the run is complete. Both show the log and stay in the foreground: start them in tmux.
#
# Cost: the chips of the slice, per hour, from ACTIVE until `delete`, whether used or idle (`resume` does not delete the
# slice at the end). The price depends on the chip, the zone, and spot (the default, may be preempted at any time) or on
# demand (SPOT=): https://cloud.google.com/tpu/pricing. A bucket in another region adds the cost of the traffic.
# `gcloud compute tpus queued-resources list --zone=ZONE` lists the slices that still exist.
#
# Requires gcloud (logged in, with a project, the TPU API and quota for the chips) and a bucket writable by the slice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NAME=${NAME:-shapegan} ZONE=${ZONE:-us-west4-a} ACCELERATOR=${ACCELERATOR:-v5litepod-16} SPOT=${SPOT---spot}
PAUSE=${PAUSE:-60} # seconds between two checks of the state
case "$ACCELERATOR" in # https://cloud.google.com/tpu/docs/runtimes
  v5litepod-*) image=v2-alpha-tpuv5-lite ;;
  v5p-*) image=v2-alpha-tpuv5 ;;
  v6e-*) image=v2-alpha-tpuv6e ;;
  *) image=tpu-ubuntu2204-base ;;
esac
tpus() { gcloud compute tpus "$@" --zone="$ZONE"; }

state() { tpus queued-resources describe "$NAME" --format='value(state.state)' 2>/dev/null || echo ABSENT; }
create() {
  # shellcheck disable=SC2086 # an empty SPOT is no argument
  tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
    --runtime-version="${RUNTIME:-$image}" $SPOT
}
delete() { tpus queued-resources delete "$NAME" --force --quiet; }
everywhere() { tpus tpu-vm ssh "$NAME" --worker=all --command="$1"; }

await() {
  local now
  until now=$(state) && [ "$now" = ACTIVE ]; do
    case "$now" in SUSPENDING | SUSPENDED | FAILED | DELETING | ABSENT) return 1 ;; esac
    echo "$NAME: $now"
    sleep "$PAUSE"
  done
}

run() {
  await || { echo "$NAME: $(state), there is no slice to run on" >&2; return 1; }
  local archive status=0
  archive=$(mktemp -t shapegan-XXXXXX.tgz)
  # The Python of the images is too old for the package; uv installs one.
  tar czf "$archive" --exclude=./.git --exclude=./runs --exclude=./.venv . &&
    tpus tpu-vm scp "$archive" "$NAME:shapegan.tgz" --worker=all &&
    everywhere "set -e; mkdir -p shapegan; cd shapegan; tar xzf ../shapegan.tgz; python3 -m pip install -q --user uv
      ~/.local/bin/uv venv -q --allow-existing --python 3.12 .venv; . .venv/bin/activate
      ~/.local/bin/uv pip install -q -e '.[tpu,gcs]'
      python -m shapegan_jax.main$(printf ' %q' "$@") --coordinator=auto" || status=$?
  rm "$archive"
  return "$status"
}

resume() {
  until run "$@"; do
    for _ in 1 2 3 4 5; do # it takes a while until a preemption is visible in the state
      [ "$(state)" = ACTIVE ] || break
      sleep "$PAUSE"
    done
    [ "$(state)" != ACTIVE ] || { echo "$NAME is still active: the run itself failed, see above" >&2; return 1; }
    [ "$(state)" = ABSENT ] || delete
    create
  done
}

case "${1:-}" in
  create | run | resume | state | delete) "$@" ;;
  *) echo "usage: launch/tpu_vm.sh create | run FLAGS | resume FLAGS | state | delete" >&2; exit 2 ;;
esac
