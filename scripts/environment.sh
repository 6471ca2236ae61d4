# Sourced by the scripts beside it: makes .venv and installs Photon into it.
# Sets PYTHON to the environment's interpreter. Leaves a torch that is there alone.

say() { printf '==> %s\n' "$*"; }

find_python() {
    local candidate candidates=(python3 python3.11 python3.12 python3.13)
    [ -z "${PHOTON_PYTHON:-}" ] || candidates=("$PHOTON_PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c \
            'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "photon: ${PHOTON_PYTHON:+PHOTON_PYTHON=$PHOTON_PYTHON: }needs Python 3.11, 3.12 or 3.13; install one or name it in PHOTON_PYTHON" >&2
    return 2
}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

# install EXTRAS: Photon from this checkout with its extras (".[test]" for "[test]").
install() {
    local extras=$1 python site='' options=()
    PYTHON=$ROOT/.venv/bin/python
    if [ ! -x "$PYTHON" ]; then
        python=$(find_python) || return
        say "making .venv with $("$python" --version)"
        # A PyTorch that this Python already has is used, not downloaded again.
        "$python" -c 'import sys, torch; sys.exit(sys.prefix != sys.base_prefix)' 2>/dev/null &&
            site=--system-site-packages  # of another environment they would not be seen
        "$python" -m venv $site "$ROOT/.venv" || return
    fi
    if up_to_date "$extras"; then
        say "Photon$extras is installed"
        return
    fi
    if [ -n "${PHOTON_TORCH_INDEX:-}" ]; then
        options+=(--extra-index-url "$PHOTON_TORCH_INDEX")
    elif ! has_gpu && ! "$PYTHON" -c 'import torch' 2>/dev/null; then
        options+=(--constraint "$ROOT/constraints.txt")
    fi
    say "installing Photon$extras (PyTorch makes this take a few minutes the first time)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --use-pep517 "${options[@]}" \
        --editable "$ROOT$extras" || return
    stamp "$extras" >"$ROOT/.venv/photon-installed"
}

stamp() { echo "$1 $(cksum <"$ROOT/pyproject.toml") $("$PYTHON" --version)"; }

# The test extras include the plain installation.
up_to_date() {
    local have
    have=$(cat "$ROOT/.venv/photon-installed" 2>/dev/null) || return
    [ "$have" = "$(stamp "$1")" ] || [ "$have" = "$(stamp "[test]")" ]
}
