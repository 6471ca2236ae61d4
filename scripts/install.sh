#!/usr/bin/env bash
# bash scripts/install.sh EXTRAS: Photon with its extras ("[flower]"), in .venv of this checkout.
set -euo pipefail
ROOT=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/environment.sh"
install "$1"
say "activate it with: . $ROOT/.venv/bin/activate"
