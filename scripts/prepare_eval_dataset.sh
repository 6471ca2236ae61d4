#!/usr/bin/env bash
# Puts the Eval Gauntlet's task files into PATH/dataset_cache/eval/local_data and checks them.
#   bash scripts/prepare_eval_dataset.sh --project_path PATH [--source URL_OR_FOLDER]
# The files come from the public repository of llm-foundry, or from --source (or PHOTON_EVAL_SOURCE):
# another repository, a checkout of one, or a folder with the files. Exit code 2 if some are missing.
# May be sourced too: it sets no shell options, exits no shell, and leaves nothing defined.
_photon_prepare_eval() {
    local root project=. source=${PHOTON_EVAL_SOURCE:-https://github.com/mosaicml/llm-foundry.git}
    local work found target place
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
    while [ $# -gt 0 ]; do
        case $1 in
            -p | --project_path | --source)
                if [ $# -lt 2 ]; then
                    echo "prepare_eval_dataset.sh: $1 needs a value" >&2
                    return 2
                fi
                if [ "$1" = --source ]; then source=$2; else project=$2; fi
                shift 2 ;;
            -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return ;;
            *)
                echo "prepare_eval_dataset.sh: unknown argument $1 (--help shows them)" >&2
                return 2 ;;
        esac
    done
    local python=$root/.venv/bin/python
    [ -x "$python" ] || python=${PHOTON_PYTHON:-python3}
    if ! "$python" -c 'import photon' 2>/dev/null; then
        echo "prepare_eval_dataset.sh: $python has no Photon; run bash scripts/quickstart.sh first" >&2
        return 2
    fi
    target=$project/dataset_cache/eval/local_data
    mkdir -p "$target" || return
    work=$(mktemp -d) || return
    found=$source
    if [ ! -d "$source" ] || [ -d "$source/objects" ]; then
        found=$work/clone
        if ! { git clone --quiet --depth 1 --filter=blob:none --sparse "$source" "$found" &&
            git -C "$found" sparse-checkout set scripts/eval/local_data; } >"$work/log" 2>&1; then
            echo "prepare_eval_dataset.sh: cannot clone $source ($(tail -n 1 "$work/log"));" \
                "name another repository, or a folder with the files, by --source" >&2
            rm -rf "$work"
            return 2
        fi
    fi
    for place in scripts/eval/local_data eval/local_data .; do
        [ -d "$found/$place" ] && break
    done
    cp -R "$found/$place/." "$target/"
    local code=$?
    rm -rf "$work"
    [ $code -eq 0 ] || return $code
    "$python" - "$project/dataset_cache" <<'CHECK'
import sys
from pathlib import Path

from photon.config import load_config
from photon.errors import DataError
from photon.evaluation.tasks import find_file, read_rows

root, missing, rows = Path(sys.argv[1]), [], 0
tasks = load_config(["icl_tasks_config=tasks_v0.3"]).icl_tasks_config.icl_tasks
for task in tasks:
    try:
        rows += len(read_rows(find_file(root, task.dataset_uri), task))
    except DataError as error:
        missing.append(f"{task.label}: {error}".removesuffix("; set icl_tasks_config.root_dir"))
print(f"{len(tasks) - len(missing)} of {len(tasks)} tasks, {rows:,} rows in {root}")
print("".join(f"missing     {line}\n" for line in missing), end="", file=sys.stderr)
sys.exit(2 if missing else 0)
CHECK
}
_photon_prepare_eval "$@"
eval "unset -f _photon_prepare_eval; return $? 2>/dev/null || exit $?"
