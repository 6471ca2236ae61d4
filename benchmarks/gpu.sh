#!/usr/bin/env bash
# What Photon does on this machine's GPU: one table, one JSON, in under eight minutes, without a network.
#   bash benchmarks/gpu.sh [--out FOLDER] [--seconds 450] [--device cuda:0]
# Needs what Photon needs, and transformers. PHOTON_WHEELS=FOLDER: what is missing is installed from the wheels there.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "gpu.sh: $*" >&2; }

python=$here/../.venv/bin/python
[ -x "$python" ] || python=${PHOTON_PYTHON:-python3}

# Packages whose module is not there, by the names under which they are installed.
missing() {
    "$python" - <<'END'
import importlib.util
names = {"hydra": "hydra-core", "antlr4": "antlr4-python3-runtime"}
modules = ["torch", "transformers", "tokenizers", "safetensors", "numpy", "msgpack", "rich", "click",
           "hydra", "omegaconf", "antlr4", "pydantic", "zstandard", "blake3"]
print(*(names.get(one, one) for one in modules if importlib.util.find_spec(one) is None))
END
}

lacking=$(missing) || { say "$python does not run; set PHOTON_PYTHON"; exit 2; }
if [ -n "$lacking" ] && [ -n "${PHOTON_WHEELS:-}" ]; then
    # shellcheck disable=SC2086  # a list of names
    "$python" -m pip install --quiet --no-index --find-links "$PHOTON_WHEELS" $lacking >&2 || exit 2
    lacking=$(missing)
fi
[ -z "$lacking" ] || { say "$python lacks $lacking: install Photon, or set PHOTON_WHEELS to a folder of wheels"; exit 2; }

case " $* " in
    *" --device cpu "* | *" --device=cpu "* | *" --help "* | *" -h "*) ;;
    *) "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { say "PyTorch sees no GPU here (--device cpu --smoke tries it out on a CPU)"; exit 2; } ;;
esac
export PYTHONPATH=$here/../src${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -W ignore "$here/gpu.py" "$@"
