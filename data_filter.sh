#!/usr/bin/env bash
# Filter a training set by difficulty: keep a share of every success-rate bucket. See dataset/README.md.
#   bash data_filter.sh [--stats FILE] [--dataset FILE] [--output_dir DIR] [--success_rate_ratios RATIOS] [--retain_code]
#                       [--seed N] [--sources YAML] [--skip_broken_rows] [--dry_run]
# PYTHON names an interpreter of an environment that has everything; empty: .venv, made to match uv.lock.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
[[ -n ${PYTHON:-} ]] || setup_environment --no-dev --inexact
exec "${PYTHON:-.venv/bin/python}" -m verl_cleaner.dataset.filter "$@"
