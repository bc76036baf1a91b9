#!/usr/bin/env bash
# Which set-ups train here? Runs every cell of recipe/cleaner/matrix.yaml for a few steps and writes one table; cells that
# this host cannot run are named in it. DRY_RUN=1 prints the commands.
#   bash recipe/cleaner/matrix.sh [MATRIX.yaml] [--platforms a,b] [--cells a,b] [--parallel N] [--minutes M] [--out DIR]
#        [--python PLATFORM=INTERPRETER] [key=value …]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
# shellcheck source=recipe/cleaner/lib/judge.sh
source recipe/cleaner/lib/judge.sh

# PYTHON names an environment of the user's own, as in the recipes.
[[ -n ${PYTHON:-} ]] || setup_environment --no-dev --inexact
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python=${PYTHON:-.venv/bin/python}
for argument; do
  [[ $argument == -h || $argument == --help ]] && exec "$python" -m cleaner_lab.matrix --help
done
[[ ${DRY_RUN:-} == 1 ]] && exec "$python" -m cleaner_lab.matrix "$@"
export MAX_EXECUTION_TIME=${MAX_EXECUTION_TIME:-2}
start_judge "outputs/matrix/judge$$"
# exec: the judge watches this process.
exec "$python" -m cleaner_lab.matrix "$@"
