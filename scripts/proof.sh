#!/usr/bin/env bash
# The measurements of docs/results.md, about two days on a machine with two cores, in parts that go on where they
# were stopped; then the page itself. bash scripts/proof.sh --help tells the rest.
set -euo pipefail
ROOT=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/scripts/environment.sh"

PYTHON=$ROOT/.venv/bin/python
[ -x "$PYTHON" ] || install "[test]"
exec "$PYTHON" "$ROOT/benchmarks/proof.py" "$@"
