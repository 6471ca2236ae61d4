#!/usr/bin/env bash
# Lint, types and tests; installs what they need. Arguments go to pytest.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
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
