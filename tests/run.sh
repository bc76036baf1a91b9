#!/usr/bin/env bash
# Install what is missing and run every check: format, lint, types, import contract, shell scripts, tests.
#   bash tests/run.sh              everything
#   bash tests/run.sh PYTEST_ARGS  only pytest, with these arguments (e.g. -k segment)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
setup_environment --group dev
setup_system_packages
setup_browser

if (($#)); then
  exec .venv/bin/python -m pytest "$@"
fi
step() { printf '\n== %s\n' "$*"; }
step "format and lint"
.venv/bin/ruff format --check .
.venv/bin/ruff check .
step "types"
.venv/bin/mypy
.venv/bin/mypy --strict verl/verl_cleaner/saar code-judge/code_judge
step "import contract: saar/ is pure"
.venv/bin/lint-imports
step "shell scripts"
git ls-files -co --exclude-standard -- '*.sh' .ci/run | xargs -r .venv/bin/shellcheck -x
# Two files at a time; then whole systems, the longest files first; then what measures time. All parts run in any case.
failed=0
tests() {
  step "tests: $1"
  .venv/bin/python -m pytest -m "$2" "${@:3}" || failed=1
}
tests "two at a time" "not end_to_end and not alone" -n 2 --dist loadfile
tests "whole systems, two at a time" end_to_end -n 2 --dist loadfile --no-loadscope-reorder
tests "one by one" alone
((!failed)) || die "tests failed; see above"
step "wheels"
bash tests/wheels.sh
