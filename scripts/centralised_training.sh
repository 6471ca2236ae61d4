#!/usr/bin/env bash
# Centralised training of an MPT preset on the data of all clients, on all GPUs of this machine,
# or those of CUDA_VISIBLE_DEVICES.
#   bash scripts/centralised_training.sh [--project_path P] [125m|350m|760m|1b|3b|7b] [--dry-run] [KEY=VALUE]...
# Variables: RUN_UUID, SAVE_PATH, DATA_CONFIG, EXTERNAL_CONFIGS. By itself it takes 10 steps.
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
# shellcheck disable=SC2086  # DATA_CONFIG and EXTERNAL_CONFIGS are lists of words, as in the original
_photon_read centralised_training.sh "$@" && _photon_size 125m && _photon_train --centralized \
    "llm_config=mpt-$PHOTON_SIZE" "run_uuid=${RUN_UUID:-centralised-$PHOTON_SIZE}" \
    "photon.saving_path=${SAVE_PATH:-$PHOTON_PROJECT/runs}" llm_config.max_duration=10ba \
    llm_config.scheduler.schedulers.lr.t_max=10ba llm_config.scheduler.schedulers.lr.t_warmup=1ba \
    llm_config.scheduler.schedulers.lr.alpha_f=0.1 llm_config.optimizer.lr=6.0e-4 llm_config.save_interval=1000ba \
    llm_config.console_log_interval=100ba llm_config.eval_first=true llm_config.eval_interval=250ba \
    llm_config.eval_subset_num_batches=1 ++llm_config.device_eval_microbatch_size=auto \
    llm_config.device_eval_batch_size=128 llm_config.global_train_batch_size=64 \
    llm_config.device_train_microbatch_size=auto llm_config.precision=amp_bf16 \
    icl_tasks_config=empty eval_gauntlet_config=empty \
    ${PHOTON_ROOT_LOCAL:+"dataset.train.root_local=$PHOTON_ROOT_LOCAL" "dataset.val.root_local=$PHOTON_ROOT_LOCAL"} \
    ${DATA_CONFIG:-} ${EXTERNAL_CONFIGS:-} "${PHOTON_EXTRA[@]}"
eval "$(_photon_end $?)"
