# Sourced by the scripts beside it: reads their arguments, prints or runs the `photon` command.
# Sets no shell options and exits no shell; `eval "$(_photon_end $?)"` removes what it defines.
PHOTON_SCRIPTS=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# _photon_read NAME ARGUMENTS...: sets PHOTON_PROJECT, PHOTON_SOURCE, PHOTON_DRY, PHOTON_HELP, and
# the arrays PHOTON_WORDS (positional) and PHOTON_EXTRA (flags of photon, KEY=VALUE, ~KEY).
_photon_read() {
    PHOTON_NAME=$1 PHOTON_PROJECT=${PROJECT_PATH:-$HOME/projects/photon} PHOTON_SOURCE='' PHOTON_DRY='' PHOTON_HELP=''
    PHOTON_WORDS=() PHOTON_EXTRA=()
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            -p | --project_path | --source | --tokenizer | --train-tokenizer)
                [ $# -gt 1 ] || { _photon_say "$1 needs a value"; return 2; }
                case $1 in
                    --source) PHOTON_SOURCE=$2 ;;
                    --*tokenizer) PHOTON_EXTRA+=("$1" "$2") ;;
                    *) PHOTON_PROJECT=$2 ;;
                esac
                shift ;;
            --dry-run) PHOTON_DRY=1 ;;
            -h | --help)
                PHOTON_HELP=1
                sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$PHOTON_SCRIPTS/$PHOTON_NAME" ;;
            --json | --samples | --fresh | --progress | --quiet | --original | *=* | ~*) PHOTON_EXTRA+=("$1") ;;
            -*) _photon_say "unknown argument $1 (--help shows them)"; return 2 ;;
            *) PHOTON_WORDS+=("$1") ;;
        esac
        shift
    done
    case $PHOTON_NAME in
        convert_c4_dataset.sh | prepare_eval_dataset.sh) ;;
        *) [ -z "$PHOTON_SOURCE" ] || { _photon_say "unknown argument --source (--help shows them)"; return 2; } ;;
    esac
    PHOTON_RUN=$PHOTON_SCRIPTS/../.venv/bin/python
    [ -x "$PHOTON_RUN" ] || PHOTON_RUN=${PHOTON_PYTHON:-python3}
}

# _photon_no_words: refuses positional arguments, where there are none to give.
_photon_no_words() {
    [ ${#PHOTON_WORDS[@]} -eq 0 ] || { _photon_say "unknown argument ${PHOTON_WORDS[0]} (--help shows them)"; return 2; }
}

_photon_say() { echo "$PHOTON_NAME: $*" >&2; }

# _photon_size DEFAULT: the model size among the words, in lower case, as PHOTON_SIZE.
_photon_size() {
    PHOTON_SIZE=$(printf %s "${PHOTON_WORDS[0]:-$1}" | tr '[:upper:]' '[:lower:]')
    case $PHOTON_SIZE in
        125m | 350m | 760m | 1b | 3b | 7b) [ ${#PHOTON_WORDS[@]} -le 1 ] && return ;;
    esac
    _photon_say "unknown argument ${PHOTON_WORDS[*]} (sizes are 125m, 350m, 760m, 1b, 3b, 7b; --help)"
    return 2
}

# _photon_run ARGUMENTS...: photon with these; only prints the command with --dry-run.
_photon_run() { _photon_call -m photon "$@"; }

# _photon_train ARGUMENTS...: the same in one process for each GPU that this shell may use.
_photon_train() {
    local gpus
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        gpus=$(tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
    else
        gpus=$(nvidia-smi -L 2>/dev/null | grep -c ^GPU)
    fi
    [ "$gpus" -le 1 ] || set -- -m torch.distributed.run --standalone --nproc-per-node "$gpus" -m photon train "$@"
    [ "$gpus" -gt 1 ] || set -- -m photon train "$@"
    _photon_call "$@"
}

_photon_call() {
    [ -z "$PHOTON_HELP" ] || return 0
    if [ -n "$PHOTON_DRY" ]; then
        printf '%q ' "$PHOTON_RUN" "$@"
        printf '\n'
    elif "$PHOTON_RUN" -c 'import photon' 2>/dev/null; then
        "$PHOTON_RUN" "$@"
    else
        _photon_say "$PHOTON_RUN has no Photon; run bash scripts/install_env.sh first"
        return 2
    fi
}

# _photon_explain: a line for each variable of the original that has no meaning any more.
_photon_explain() {
    [ -z "${DRIVER_API_ADDRESS:-}" ] || _photon_say "DRIVER_API_ADDRESS: Flower has one port now, FLEET_API_ADDRESS"
    [ -z "${RAY_ADDRESS:-}${RAY_PORT:-}${RAY_NODE_IP:-}${RAY_TEMP_DIR:-}" ] || _photon_say "RAY_*: there is no Ray any more"
}

# _photon_federate ROLE PRESET...: a server with a node of its own, or a node.
_photon_federate() {
    local role=$1 listen=${FLEET_API_ADDRESS:-[::]:54753} clients=${PHOTON_CLIENTS:-0-$((${N_CLIENTS:-1} - 1))}
    local saving=${SAVE_PATH:-$PHOTON_PROJECT/runs}
    shift
    _photon_size 125m && _photon_explain || return
    if [ "$role" = node ]; then
        _photon_run node --server "$listen" --keys "$PHOTON_PROJECT/keys" --clients "$clients" \
            "photon.saving_path=$saving" "$@" "${PHOTON_EXTRA[@]}"
        return
    fi
    # shellcheck disable=SC2086  # EXTERNAL_CONFIGS is a list of words, as in the original
    _photon_run server --listen "$listen" --keys "$PHOTON_PROJECT/keys" --host-clients "$clients" \
        "llm_config=mpt-$PHOTON_SIZE" "run_uuid=${RUN_UUID:-fed-125M}" "photon.saving_path=$saving" \
        "llm_config.local_steps=${N_LOCAL_STEPS:-1}ba" "$@" ${EXTERNAL_CONFIGS:-} "${PHOTON_EXTRA[@]}"
}

# _photon_end CODE: what the caller evaluates last.
_photon_end() {
    echo "unset -f _photon_train _photon_call _photon_read _photon_no_words _photon_say _photon_size _photon_run _photon_explain _photon_federate _photon_end"
    echo "unset PHOTON_SCRIPTS PHOTON_NAME PHOTON_PROJECT PHOTON_SOURCE PHOTON_DRY PHOTON_HELP PHOTON_WORDS"
    echo "unset PHOTON_EXTRA PHOTON_RUN PHOTON_SIZE PHOTON_PRESET"
    echo "return $1 2>/dev/null || exit $1"
}
