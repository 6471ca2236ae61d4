#!/usr/bin/env bash
# Makes .venv in this checkout and installs Photon into it, with what several machines need.
#   bash scripts/install_env.sh [--project_path P] [--dry-run]      or sourced: the environment is then active
# A torch that is there stays; without a GPU the CPU build is taken, with one the index's default build.
# PHOTON_TORCH_INDEX names another index of torch, PHOTON_PYTHON another Python. Nothing is compiled.
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
PHOTON_INSTALLED=''
if ! _photon_read install_env.sh "$@"; then
    (exit 2)
elif [ -z "$PHOTON_HELP" ]; then
    case "${PHOTON_WORDS[*]}" in
        '' | no_cuda) PHOTON_PRESET=(bash "$PHOTON_SCRIPTS/install.sh" "[flower,s3]") ;;
        *) _photon_say "unknown argument ${PHOTON_WORDS[*]} (--help shows them)"; (exit 2) ;;
    esac && if [ -n "$PHOTON_DRY" ]; then
        printf '%q ' "${PHOTON_PRESET[@]}" && printf '\n'
    else
        "${PHOTON_PRESET[@]}" && PHOTON_INSTALLED=$PHOTON_SCRIPTS/../.venv/bin/activate
    fi
fi
eval "PHOTON_CODE=$?"
# Only a shell that sources this keeps the environment.
[ -z "$PHOTON_INSTALLED" ] || [ "${BASH_SOURCE[0]}" = "$0" ] || . "$PHOTON_INSTALLED"
eval "unset PHOTON_INSTALLED PHOTON_CODE; $(_photon_end "$PHOTON_CODE")"
