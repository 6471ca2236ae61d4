#!/usr/bin/env bash
# Evaluates a model on all tasks and all rows of the Eval Gauntlet v0.3; results go to PATH/eval.
#   bash scripts/eval_gauntlet_only.sh --project_path PATH MODEL_PATH [--dry-run] [KEY=VALUE]...
# MODEL_PATH is a run folder, a checkpoint of one, or a Hugging Face folder. The task files are those
# of scripts/prepare_eval_dataset.sh --project_path PATH.
# May be sourced too: it sets no shell options, exits no shell, and leaves nothing defined.
_photon_eval_gauntlet() {
    local root project=. model='' dry_run='' command
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
    command=()
    while [ $# -gt 0 ]; do
        case $1 in
            -p | --project_path)
                if [ $# -lt 2 ]; then
                    echo "eval_gauntlet_only.sh: $1 needs a value" >&2
                    return 2
                fi
                project=$2
                shift 2 ;;
            --dry-run) dry_run=1; shift ;;
            -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return ;;
            --json | --samples | --fresh | --progress | *=*) command+=("$1"); shift ;;
            -*)
                echo "eval_gauntlet_only.sh: unknown argument $1 (--help shows them)" >&2
                return 2 ;;
            *)
                if [ -n "$model" ]; then
                    echo "eval_gauntlet_only.sh: one MODEL_PATH, not both $model and $1" >&2
                    return 2
                fi
                model=$1
                shift ;;
        esac
    done
    if [ -z "$model" ]; then
        echo "eval_gauntlet_only.sh: needs a MODEL_PATH: a run, a checkpoint or a Hugging Face folder" >&2
        return 2
    fi
    local python=$root/.venv/bin/python
    [ -x "$python" ] || python=${PHOTON_PYTHON:-python3}
    command=("$python" -m photon evaluate "$model"
        icl_tasks_config=tasks_v0.3 eval_gauntlet_config=eval_gauntlet_v0.3
        "icl_tasks_config.root_dir=$project/dataset_cache"
        "eval_gauntlet_config.destination_dir=$project/eval" "${command[@]}")
    if [ -n "$dry_run" ]; then
        printf '%q ' "${command[@]}"
        printf '\n'
    elif "$python" -c 'import photon' 2>/dev/null; then
        "${command[@]}"
    else
        echo "eval_gauntlet_only.sh: $python has no Photon; run bash scripts/quickstart.sh first" >&2
        return 2
    fi
}
_photon_eval_gauntlet "$@"
eval "unset -f _photon_eval_gauntlet; return $? 2>/dev/null || exit $?"
