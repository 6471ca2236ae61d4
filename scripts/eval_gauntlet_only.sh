#!/usr/bin/env bash
# Evaluates a model on all tasks and all rows of the Eval Gauntlet v0.3; results go to PATH/eval.
#   bash scripts/eval_gauntlet_only.sh [--project_path PATH] MODEL_PATH [--dry-run] [KEY=VALUE]...
# MODEL_PATH is a run folder, a checkpoint of one, or a Hugging Face folder. The task files are those
# of scripts/prepare_eval_dataset.sh --project_path PATH.
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_read eval_gauntlet_only.sh "$@" && if [ -n "$PHOTON_HELP" ]; then
    :
elif [ ${#PHOTON_WORDS[@]} -ne 1 ]; then
    _photon_say "needs one MODEL_PATH: a run, a checkpoint or a Hugging Face folder; got ${PHOTON_WORDS[*]:-none}"
    (exit 2)
elif [ -z "$PHOTON_DRY" ] && [ ! -d "$PHOTON_PROJECT/dataset_cache" ] && [[ "${PHOTON_EXTRA[*]}" != *icl_tasks_config* ]]; then
    _photon_say "no task files in $PHOTON_PROJECT/dataset_cache; get them with:" \
        "bash scripts/prepare_eval_dataset.sh --project_path $PHOTON_PROJECT"
    (exit 2)
else
    _photon_run evaluate "${PHOTON_WORDS[0]}" icl_tasks_config=tasks_v0.3 eval_gauntlet_config=eval_gauntlet_v0.3 \
        "icl_tasks_config.root_dir=$PHOTON_PROJECT/dataset_cache" \
        "eval_gauntlet_config.destination_dir=$PHOTON_PROJECT/eval" "${PHOTON_EXTRA[@]}"
fi
eval "$(_photon_end $?)"
