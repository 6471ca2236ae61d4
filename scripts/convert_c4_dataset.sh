#!/usr/bin/env bash
# Prepares C4 (English, train_small and val_xxsmall) for eight clients in PATH/fed-c4/c8/en.
#   bash scripts/convert_c4_dataset.sh --project_path PATH [--source DIR] [--dry-run] [KEY=VALUE]...
# --source DIR reads C4's own .json.gz files from a folder instead of the Hugging Face hub.
# May be sourced too: it sets no shell options, exits no shell, and leaves nothing defined.
_photon_convert_c4() {
    local root project=. source=c4 dry_run='' command
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
    command=()
    while [ $# -gt 0 ]; do
        case $1 in
            -p | --project_path | --source)
                if [ $# -lt 2 ]; then
                    echo "convert_c4_dataset.sh: $1 needs a value" >&2
                    return 2
                fi
                if [ "$1" = --source ]; then source=$2; else project=$2; fi
                shift 2 ;;
            --dry-run) dry_run=1; shift ;;
            -h | --help) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return ;;
            *=*) command+=("$1"); shift ;;
            *)
                echo "convert_c4_dataset.sh: unknown argument $1 (--help shows them)" >&2
                return 2 ;;
        esac
    done
    local python=$root/.venv/bin/python
    [ -x "$python" ] || python=${PHOTON_PYTHON:-python3}
    command=("$python" -m photon prepare --source "$source" --out "$project/fed-c4/c8/en"
        dataset=fed-c4 llm_config=mpt-125m fl.n_total_clients=8 "${command[@]}")
    if [ -n "$dry_run" ]; then
        printf '%q ' "${command[@]}"
        printf '\n'
    elif "$python" -c 'import photon' 2>/dev/null; then
        "${command[@]}"
    else
        echo "convert_c4_dataset.sh: $python has no Photon; run bash scripts/quickstart.sh first" >&2
        return 2
    fi
}
_photon_convert_c4 "$@"
eval "unset -f _photon_convert_c4; return $? 2>/dev/null || exit $?"
