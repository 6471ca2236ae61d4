#!/usr/bin/env bash
# The matched twin of fed_125m_example.sh: ADOPT, cosine, clipping 1.0, the same tokens in the same steps.
#   bash scripts/cen_125m_example.sh [--project_path P] [--original] [--dry-run] [KEY=VALUE]...
# --original: the published centralised settings (decoupled AdamW, square-root cool-down, an eighth of the tokens).
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_lr=llm_config.scheduler.schedulers.lr
if _photon_read cen_125m_example.sh "$@"; then
    case " ${PHOTON_EXTRA[*]} " in
        *" --original "*) _photon_keys="llm_config.max_duration=5120ba $_photon_lr.t_max=5120ba $_photon_lr.t_warmup=100ba
            $_photon_lr.name=constant_with_sqrt_cooldown_with_warmup ++$_photon_lr.t_cooldown=240ba ~$_photon_lr.alpha_f
            ~llm_config.algorithms.gradient_clipping llm_config.optimizer.name=decoupled_adamw ~llm_config.fsdp_config
            llm_config.eval_interval=51ba llm_config.save_interval=51ba ++llm_config.tp_config=null" ;;
        *) _photon_keys="llm_config.max_duration=40960ba $_photon_lr.t_max=40960ba $_photon_lr.t_warmup=800ba
            llm_config.optimizer.name=adopt llm_config.eval_interval=512ba llm_config.save_interval=512ba" ;;
    esac
    PHOTON_PRESET=()
    for _photon_word in "$@"; do [ "$_photon_word" = --original ] || PHOTON_PRESET+=("$_photon_word"); done
    PHOTON_ROOT_LOCAL=${DATASET_CACHE_DIR:-$PHOTON_PROJECT}/fed-c4 RUN_UUID=${RUN_UUID:-cen-125m} EXTERNAL_CONFIGS="$_photon_keys dataset=fed-c4 fl.n_total_clients=8
        dataset/streams@dataset.train.streams=8_clients dataset/streams@dataset.val.streams=8_clients
        centralized.stream_id=null llm_config.global_train_batch_size=256 llm_config.device_eval_batch_size=256
        llm_config.eval_first=false ~llm_config.loggers.wandb ~llm_config.loggers.tensorboard ${EXTERNAL_CONFIGS:-}" \
        bash "$PHOTON_SCRIPTS/centralised_training.sh" "${PHOTON_PRESET[@]}"
else
    (exit 2)
fi
eval "unset _photon_lr _photon_keys _photon_word; $(_photon_end $?)"
