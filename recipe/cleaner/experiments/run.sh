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

# PYTHON names an environment of the user's own, as in the recipes.
[[ -n ${PYTHON:-} ]] || setup_environment --no-dev --inexact
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python=${PYTHON:-.venv/bin/python}
for argument; do
  # Asking for help needs no judge.
  [[ $argument == -h || $argument == --help ]] && exec "$python" -m cleaner_lab.experiments --help
done
export MAX_EXECUTION_TIME=${MAX_EXECUTION_TIME:-2}
start_judge "outputs/experiments/judge$$"
# exec: the judge watches this process.
exec "$python" -m cleaner_lab.experiments "$@"
