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
step "tests"
.venv/bin/python -m pytest
step "wheels"
bash tests/wheels.sh
