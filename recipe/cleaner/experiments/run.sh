#!/usr/bin/env bash
# Run a grid of methods and seeds from one cold start; finished runs are kept, interrupted ones go on.
#   bash recipe/cleaner/experiments/run.sh [GRID.yaml] [--methods a,b] [--seeds 0,1] [--steps N] [--parallel N] [--out DIR] [key=value …]
# key=value are Hydra overrides for every run. Tables and figures of the results:
#   .venv/bin/python -m cleaner_lab.experiments.report outputs/experiments/nano/results.parquet --out FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
# shellcheck source=recipe/cleaner/lib/judge.sh
source recipe/cleaner/lib/judge.sh
# shellcheck source=recipe/cleaner/lib/lab.sh
source recipe/cleaner/lib/lab.sh

prepare_lab cleaner_lab.experiments "$@"
run_lab cleaner_lab.experiments outputs/experiments "$@"
