#!/usr/bin/env bash
# A federation of mpt-125m: the server, and one node on this machine for its clients.
#   bash scripts/photon_llm_125M.sh [--project_path P] [125M] [--dry-run] [KEY=VALUE]...
# Variables: RUN_UUID, SAVE_PATH, N_LOCAL_STEPS, N_CLIENTS, EXTERNAL_CONFIGS, FLEET_API_ADDRESS.
PHOTON_PRESET=(photon.refresh_period=60 photon.checkpoint=true photon.resume_round=null photon.n_nodes=1
    llm_config.save_overwrite=true fl.n_total_clients="${N_CLIENTS:-1}" fl.n_clients_per_round="${N_CLIENTS:-1}"
    fl.n_rounds=10 fl.strategy_name=NESTOROV fl.strategy_kwargs.server_learning_rate=1.0
    fl.strategy_kwargs.server_momentum=0.0 llm_config.scheduler.schedulers.lr.t_max=5000ba
    llm_config.scheduler.schedulers.lr.t_warmup=100ba llm_config.scheduler.schedulers.lr.alpha_f=0.1
    llm_config.optimizer.lr=6.0e-4 fl.reset_optimizer=true llm_config.save_interval=90000ba
    llm_config.console_log_interval=100ba llm_config.eval_first=true llm_config.eval_interval=250ba
    llm_config.eval_subset_num_batches=1 llm_config.precision=amp_fp16
    ++llm_config.device_eval_microbatch_size=auto llm_config.device_eval_batch_size=128
    llm_config.device_train_microbatch_size=auto llm_config.model.attn_config.attn_impl=flash
    icl_tasks_config=empty eval_gauntlet_config=empty
    ${PHOTON_ROOT_LOCAL:+"dataset.train.root_local=$PHOTON_ROOT_LOCAL" "dataset.val.root_local=$PHOTON_ROOT_LOCAL"})
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_read photon_llm_125M.sh "$@" && _photon_federate server "${PHOTON_PRESET[@]}"
eval "$(_photon_end $?)"
