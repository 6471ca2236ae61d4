#!/usr/bin/env bash
# The published example: mpt-125m, eight clients on C4, 320 rounds of 128 local steps.
#   bash scripts/fed_125m_example.sh [--project_path P] [--dry-run] [KEY=VALUE]...
# P/fed-c4 comes from scripts/convert_c4_dataset.sh. Variables as of photon_llm_125M.sh.
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_read fed_125m_example.sh "$@" &&
    PHOTON_ROOT_LOCAL=${DATASET_CACHE_DIR:-$PHOTON_PROJECT}/fed-c4 N_LOCAL_STEPS=${N_LOCAL_STEPS:-128} N_CLIENTS=${N_CLIENTS:-8} EXTERNAL_CONFIGS="llm_config.max_duration=40960ba
    llm_config.scheduler.schedulers.lr.t_max=40960ba llm_config.scheduler.schedulers.lr.t_warmup=800ba
    fl.n_rounds=320 fl.reset_optimizer=false llm_config.save_interval=128ba dataset=fed-c4
    dataset/streams@dataset.train.streams=8_clients dataset/streams@dataset.val.streams=8_clients
    centralized.stream_id=null llm_config.global_train_batch_size=32 llm_config.precision=amp_bf16
    fl.eval_period=null llm_config.eval_interval=40960ba photon.checkpoint=false photon.comm_stack.shm=false
    photon.comm_stack.ray=true use_wandb=false cleanup_checkpoints=false cleanup_checkpoints_per_round=false
    llm_config.eval_first=false ~llm_config.loggers.wandb ~llm_config.loggers.tensorboard ${EXTERNAL_CONFIGS:-}" \
        bash "$PHOTON_SCRIPTS/photon_llm_125M.sh" "$@"
eval "$(_photon_end $?)"
