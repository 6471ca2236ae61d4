#!/usr/bin/env bash
# Prepares C4 (English, train_small and val_xxsmall) for eight clients in PATH/fed-c4/c8/en.
#   bash scripts/convert_c4_dataset.sh [--project_path PATH] [--source DIR] [--tokenizer T] [--dry-run] [KEY=VALUE]...
# Without a network: --source DIR reads C4's own .json.gz files from a folder instead of the Hugging Face hub,
# --tokenizer FILE takes a tokenizer.json (or --train-tokenizer N trains one of N tokens on the text).
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
_photon_read convert_c4_dataset.sh "$@" && _photon_no_words && _photon_run prepare --source "${PHOTON_SOURCE:-c4}" \
    --out "$PHOTON_PROJECT/fed-c4/c8/en" dataset=fed-c4 llm_config=mpt-125m fl.n_total_clients=8 "${PHOTON_EXTRA[@]}"
eval "$(_photon_end $?)"
