#!/usr/bin/env bash
# Evaluates the newest run of a 125m model under PATH/runs on the whole Eval Gauntlet v0.3.
#   bash scripts/eval_125m_example.sh [--project_path PATH] [--dry-run] [KEY=VALUE]...
# Exit code 2 where there is no such run; the message names the command that makes one.
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_read eval_125m_example.sh "$@" && _photon_no_words && if [ -n "$PHOTON_HELP" ]; then
    :
elif PHOTON_WORDS=("$("$PHOTON_RUN" "$PHOTON_SCRIPTS/newest_run.py" "$PHOTON_PROJECT/runs")"); [ -z "${PHOTON_WORDS[0]}" ]; then
    _photon_say "no run of a 125m model in $PHOTON_PROJECT/runs; make one with:" \
        "bash scripts/cen_125m_example.sh --project_path $PHOTON_PROJECT"
    (exit 2)
else
    bash "$PHOTON_SCRIPTS/eval_gauntlet_only.sh" "${PHOTON_WORDS[0]}" "$@"
fi
eval "$(_photon_end $?)"
