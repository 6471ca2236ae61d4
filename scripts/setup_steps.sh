#!/usr/bin/env bash
# The steps of system_setup.sh. Each STEP has has_STEP (is it there?), about_STEP and do_STEP.
set -uo pipefail
STEPS=(packages python cuda cudnn persistence monitoring aws wandb)
PACKAGES=(build-essential git curl ca-certificates zlib1g-dev libssl-dev libffi-dev liblzma-dev libreadline-dev bc)
CUDA=${PHOTON_CUDA:-12-4}
check='' yes='' dry='' only='' skip=''

say() { echo "system_setup.sh: $*"; }
run() { if [ -n "$dry" ]; then printf '%q ' "$@" && printf '\n'; else "$@"; fi; }
root() { if [ "$(id -u)" = 0 ]; then run "$@"; else run sudo "$@"; fi; }
has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }
distribution() { . /etc/os-release && echo "${ID}${VERSION_ID//./}"; }

about_packages() { echo "compiler, git and headers with apt: ${PACKAGES[*]}"; }
has_packages() { dpkg -s "${PACKAGES[@]}" >/dev/null 2>&1; }
do_packages() { root apt-get update -q && root apt-get install -y -q "${PACKAGES[@]}"; }

about_python() { echo "Python 3.11, 3.12 or 3.13 with venv"; }
has_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13; do
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && return
    done
    return 1
}
do_python() { root apt-get install -y -q python3 python3-venv python3-pip; }

repository() {
    local deb=cuda-keyring_1.1-1_all.deb folder
    folder=$(mktemp -d)
    run curl -fsSL -o "$folder/$deb" \
        "https://developer.download.nvidia.com/compute/cuda/repos/$(distribution)/x86_64/$deb" &&
        root dpkg -i "$folder/$deb" && root apt-get update -q
}
about_cuda() { echo "NVIDIA's CUDA toolkit $CUDA (PyTorch brings its own libraries; only for compiling kernels)"; }
has_cuda() { command -v nvcc >/dev/null 2>&1 || ! has_gpu; }
do_cuda() { repository && root apt-get install -y -q "cuda-toolkit-$CUDA"; }

about_cudnn() { echo "cuDNN 9 (PyTorch brings its own; only for compiling against it)"; }
has_cudnn() { ldconfig -p | grep -q libcudnn || ! has_gpu; }
do_cudnn() { repository && root apt-get install -y -q cudnn9-cuda-12; }

about_persistence() { echo "keep the NVIDIA driver loaded between processes"; }
has_persistence() { ! has_gpu || nvidia-smi --query-gpu=persistence_mode --format=csv,noheader | grep -qv Disabled; }
do_persistence() { root nvidia-smi -pm 1; }

about_monitoring() { echo "htop, nvtop and iftop"; }
has_monitoring() { command -v htop >/dev/null 2>&1; }
do_monitoring() { root apt-get install -y -q htop nvtop iftop; }

about_aws() { echo "$HOME/.aws/credentials for an object store, from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"; }
has_aws() { [ -e "$HOME/.aws/credentials" ] || [ -z "${AWS_ACCESS_KEY_ID:-}${AWS_SECRET_ACCESS_KEY:-}" ]; }
do_aws() {
    [ -n "$dry" ] && { say "would write $HOME/.aws/credentials"; return; }
    mkdir -p "$HOME/.aws" && (umask 077 && set -C && printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' \
        "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" >"$HOME/.aws/credentials")
}

about_wandb() { echo "an entry for api.wandb.ai in $HOME/.netrc, from WANDB_API_KEY"; }
has_wandb() { grep -qs api.wandb.ai "$HOME/.netrc" || [ -z "${WANDB_API_KEY:-}" ]; }
do_wandb() {
    [ -n "$dry" ] && { say "would add api.wandb.ai to $HOME/.netrc"; return; }
    (umask 077 && printf '\nmachine api.wandb.ai\n  login user\n  password %s\n' "$WANDB_API_KEY" >>"$HOME/.netrc")
}

listed() { case ",$1," in *",$2,"*) return 0 ;; esac; return 1; }
known() {
    local name
    for name in ${1//,/ }; do
        listed "$(IFS=,; echo "${STEPS[*]}")" "$name" || { say "no step $name; there are ${STEPS[*]}" >&2; exit 2; }
    done
}

while [ $# -gt 0 ]; do
    case $1 in
        --check) check=1 ;;
        --yes) yes=1 ;;
        --dry-run) dry=1 ;;
        --only | --skip)
            [ $# -gt 1 ] || { say "$1 needs step names" >&2; exit 2; }
            known "$2"
            if [ "$1" = --only ]; then only=$2; else skip=$2; fi
            shift ;;
        -p | --project_path) shift ;;
        -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$(dirname "$0")/system_setup.sh"; exit ;;
        *) say "unknown argument $1 (--help shows them)" >&2; exit 2 ;;
    esac
    shift
done
failed=0
for step in "${STEPS[@]}"; do
    [ -z "$only" ] || listed "$only" "$step" || continue
    listed "$skip" "$step" && continue
    if "has_$step"; then
        say "$step: nothing to do"
    elif [ -n "$check" ]; then
        say "$step: missing: $("about_$step")"
        failed=1
    else
        if [ -z "$yes$dry" ]; then
            read -r -p "system_setup.sh: $step: $("about_$step"). Do it? [y/N] " answer || answer=n
            case $answer in [yY]*) ;; *) say "$step: left out"; continue ;; esac
        fi
        "do_$step" || { say "$step: failed; the others go on" >&2; failed=1; }
    fi
done
exit $failed
