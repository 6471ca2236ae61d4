#!/usr/bin/env bash
# Lint, types and tests; installs what they need. Arguments go to pytest.
set -euo pipefail
case ${1-} in -h | --help) sed -n '2,2s/^# //p' "$0"; exit ;; esac
ROOT=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/environment.sh"

install "[test]"
cd "$ROOT"
say "lint"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
say "types"
"$PYTHON" -m basedpyright --level error
say "tests"
"$PYTHON" -m pytest "$@"
