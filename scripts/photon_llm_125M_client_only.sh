#!/usr/bin/env bash
# One more node for the federation of photon_llm_125M.sh or fed_125m_example.sh, on another machine.
#   bash scripts/photon_llm_125M_client_only.sh [--project_path P] [--dry-run] [KEY=VALUE]...
# Variables: FLEET_API_ADDRESS (the server's HOST:PORT), PHOTON_CLIENTS (as in 4-7), SAVE_PATH,
# EXTERNAL_CONFIGS. P/keys must hold ca.pem and this host's key (photon keys add on the server).
. "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
# shellcheck disable=SC2086  # EXTERNAL_CONFIGS is a list of words, as in the original
_photon_read photon_llm_125M_client_only.sh "$@" && _photon_federate node ${EXTERNAL_CONFIGS:-}
eval "$(_photon_end $?)"
