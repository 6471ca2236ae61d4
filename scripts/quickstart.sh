#!/usr/bin/env bash
# From a fresh clone to a trained model: installs, prepares the embedded corpus, trains a federation
# of eight clients and its baselines, evaluates, and shows the result. Run it again to start anew.
# Arguments are overrides: bash scripts/quickstart.sh fl.n_rounds=4
set -euo pipefail
case ${1-} in -h | --help) sed -n '2,4s/^# //p' "$0"; exit ;; esac
ROOT=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/environment.sh"

install "[report]"
cd "$ROOT"
run=quickstart runs=runs
for word in "$@"; do
    case $word in
        run_uuid=?*) run=${word#run_uuid=} ;;
        photon.saving_path=?*) runs=${word#photon.saving_path=} ;;
    esac
done
if [ "$run" = quickstart ] && [ -e "$runs/$run" ]; then
    run=quickstart-$(date +%Y%m%d-%H%M%S)
    say "$runs/quickstart is there already; this run is $runs/$run"
fi
trap 'say "the photon command is in .venv/bin; to use it: source .venv/bin/activate"' EXIT
say "training eight clients, then the centralised twin and one client alone: about 3 minutes on 2 cores"
"$PYTHON" -m photon train recipe=quickstart "$@" run_uuid="$run"
if page=$("$PYTHON" -m photon report "$runs/$run"); then
    say "the same as a page with plots: $page"
fi
