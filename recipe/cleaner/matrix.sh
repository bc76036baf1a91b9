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
# shellcheck source=recipe/cleaner/lib/lab.sh
source recipe/cleaner/lib/lab.sh

prepare_lab cleaner_lab.matrix "$@"
[[ ${DRY_RUN:-} == 1 ]] && exec "$python" -m cleaner_lab.matrix "$@"
run_lab cleaner_lab.matrix outputs/matrix "$@"
