#!/usr/bin/env bash
# Puts the Eval Gauntlet's task files into PATH/dataset_cache/eval/local_data and checks them.
#   bash scripts/prepare_eval_dataset.sh [--project_path PATH] [--source URL_OR_FOLDER] [--dry-run]
# The files come from the public repository of llm-foundry, or from --source (or PHOTON_EVAL_SOURCE):
# another repository, a checkout of one, or a folder with the files. Exit code 2 if some are missing.
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_read prepare_eval_dataset.sh "$@" && _photon_no_words && if [ -n "$PHOTON_HELP" ]; then
    :
elif ! "$PHOTON_RUN" -c 'import photon' 2>/dev/null; then
    _photon_say "$PHOTON_RUN has no Photon; run bash scripts/install_env.sh first"
    (exit 2)
else
    : "${PHOTON_SOURCE:=${PHOTON_EVAL_SOURCE:-https://github.com/mosaicml/llm-foundry.git}}"
    PHOTON_PRESET=(bash "$PHOTON_SCRIPTS/fetch_tasks.sh" "$PHOTON_SOURCE" "$PHOTON_PROJECT/dataset_cache/eval/local_data")
    if [ -n "$PHOTON_DRY" ]; then
        printf '%q ' "${PHOTON_PRESET[@]}" && printf '\n'
    else
        "${PHOTON_PRESET[@]}" && "$PHOTON_RUN" "$PHOTON_SCRIPTS/check_tasks.py" "$PHOTON_PROJECT/dataset_cache"
    fi
fi
eval "$(_photon_end $?)"
