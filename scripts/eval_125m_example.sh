#!/usr/bin/env bash
# Evaluates the newest run of a 125m model under PATH/runs on the whole Eval Gauntlet v0.3.
#   bash scripts/eval_125m_example.sh --project_path PATH [--dry-run] [KEY=VALUE]...
# Exit code 2 where there is no such run; the message names the command that makes one.
# May be sourced too: it sets no shell options, exits no shell, and leaves nothing defined.
_photon_eval_125m() {
    local root project=. run arguments
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
    arguments=()
    while [ $# -gt 0 ]; do
        case $1 in
            -p | --project_path)
                if [ $# -lt 2 ]; then
                    echo "eval_125m_example.sh: $1 needs a value" >&2
                    return 2
                fi
                project=$2
                shift 2 ;;
            --dry-run | --json | --samples | --fresh | --progress | *=*)
                arguments+=("$1"); shift ;;
            -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return ;;
            *)
                echo "eval_125m_example.sh: unknown argument $1 (--help shows them)" >&2
                return 2 ;;
        esac
    done
    local python=$root/.venv/bin/python
    [ -x "$python" ] || python=${PHOTON_PYTHON:-python3}
    run=$("$python" - "$project/runs" <<'NEWEST'
import json
import sys
from pathlib import Path

runs = []
for path in Path(sys.argv[1]).glob("*/config.json"):
    checkpoints = list((path.parent / "checkpoints").glob("*.json"))
    name = str(json.loads(path.read_text())["llm_config"]["name"])
    if name.endswith("125m") and checkpoints:
        runs.append((max(file.stat().st_mtime for file in checkpoints), path.parent))
print(max(runs)[1] if runs else "")
NEWEST
) || return
    if [ -z "$run" ]; then
        echo "eval_125m_example.sh: no run of a 125m model in $project/runs; make one with:" \
            "photon train --centralized llm_config=mpt-125m dataset=fed-c4" \
            "dataset.train.root_local=$project/fed-c4 photon.saving_path=$project/runs" >&2
        return 2
    fi
    bash "$root/scripts/eval_gauntlet_only.sh" --project_path "$project" "$run" "${arguments[@]}"
}
_photon_eval_125m "$@"
eval "unset -f _photon_eval_125m; return $? 2>/dev/null || exit $?"
