#!/usr/bin/env bash
# What a fresh Ubuntu or Debian machine needs for training, step by step; asks before each.
#   bash scripts/system_setup.sh [--check] [--yes] [--only STEP,...] [--skip STEP,...] [--dry-run]
# Steps: packages python cuda cudnn persistence monitoring aws wandb. --check only says what is there.
# Nothing that is there is changed: credentials that exist are never written over.
exec_setup() { bash "$(dirname "${BASH_SOURCE[0]}")/setup_steps.sh" "$@"; }
exec_setup "$@"
eval "unset -f exec_setup; return $? 2>/dev/null || exit $?"
