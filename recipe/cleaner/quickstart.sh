#!/usr/bin/env bash
# See CLEANER work on a machine without a GPU: real VeRL training with SAAR, a small policy, an embedded judge.
#   bash recipe/cleaner/quickstart.sh [--steps N] [--baseline | --compare] [--seed S] [key=value …]
# key=value are Hydra overrides of VeRL's configuration, e.g. actor_rollout_ref.actor.optim.lr=1e-3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
# shellcheck source=recipe/cleaner/lib/judge.sh
source recipe/cleaner/lib/judge.sh

# --inexact: leave what the tests installed.
setup_environment --no-dev --inexact
# More threads than free cores make small matrices many times slower.
export OMP_NUM_THREADS=1
for argument; do
  # Asking for help needs no judge.
  [[ $argument == -h || $argument == --help ]] && exec .venv/bin/python -m cleaner_lab.nano.quickstart --help
done
OUTPUT_DIR=${OUTPUT_DIR:-outputs/quickstart/$(date +%Y%m%d-%H%M%S)}
export OUTPUT_DIR
# The tasks take milliseconds; what runs for seconds is an endless loop.
export MAX_EXECUTION_TIME=${MAX_EXECUTION_TIME:-2}
start_judge "$OUTPUT_DIR"
# exec: the judge watches this process.
exec .venv/bin/python -m cleaner_lab.nano.quickstart "$@"
