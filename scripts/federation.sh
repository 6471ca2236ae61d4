# Sourced by the launchers beside it: reads the original's arguments and variables, runs `photon`.
# Defines _photon_launch only; sets no shell options and exits no shell.

# _photon_launch ROLE NAME ARGUMENTS...: ROLE is server or node; the array PHOTON_PRESET holds the
# overrides of the launcher, before those of EXTERNAL_CONFIGS and of the command line.
_photon_launch() {
    local role=$1 name=$2 root project=${PROJECT_PATH:-$HOME/projects/photon} dry_run='' size=125m
    local listen server clients extra=() command=() python
    shift 2
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
    while [ $# -gt 0 ]; do
        case $1 in
            -p | --project_path)
                [ $# -gt 1 ] || { echo "$name: $1 needs a value" >&2; return 2; }
                project=$2; shift 2 ;;
            --dry-run) dry_run=1; shift ;;
            -h | --help) echo "bash scripts/$name [--project_path P] [125M] [--dry-run] [KEY=VALUE]..."; return ;;
            125m | 125M) shift ;;
            *=* | ~*) extra+=("$1"); shift ;;
            *) echo "$name: unknown argument $1 (--help shows them)" >&2; return 2 ;;
        esac
    done
    [ -z "${DRIVER_API_ADDRESS:-}" ] || echo "$name: DRIVER_API_ADDRESS: Flower has one port now, FLEET_API_ADDRESS" >&2
    [ -z "${RAY_ADDRESS:-}${RAY_PORT:-}${RAY_NODE_IP:-}${RAY_TEMP_DIR:-}" ] || echo "$name: RAY_*: there is no Ray any more" >&2
    listen=${FLEET_API_ADDRESS:-[::]:54753}
    server=${listen/\[::\]/localhost}
    clients=${PHOTON_CLIENTS:-0-$((${N_CLIENTS:-1} - 1))}
    python=$root/.venv/bin/python
    [ -x "$python" ] || python=${PHOTON_PYTHON:-python3}
    # shellcheck disable=SC2206  # EXTERNAL_CONFIGS is a list of words, as in the original
    extra=("${PHOTON_PRESET[@]}" ${EXTERNAL_CONFIGS:-} "${extra[@]}")
    if [ "$role" = server ]; then
        command=("$python" -m photon server --listen "$listen" --keys "$project/keys" --host-clients "$clients"
            "llm_config=mpt-$size" "run_uuid=${RUN_UUID:-fed-125M}" "photon.saving_path=${SAVE_PATH:-$project/runs}"
            "llm_config.local_steps=${N_LOCAL_STEPS:-1}ba" "${extra[@]}")
    else
        command=("$python" -m photon node --server "$server" --keys "$project/keys" --clients "$clients"
            "photon.saving_path=${SAVE_PATH:-$project/runs}" "${extra[@]}")
    fi
    if [ -n "$dry_run" ]; then
        printf '%q ' "${command[@]}"; printf '\n'
    elif "$python" -c 'import photon' 2>/dev/null; then
        "${command[@]}"
    else
        echo "$name: $python has no Photon; run bash scripts/quickstart.sh first" >&2
        return 2
    fi
}
