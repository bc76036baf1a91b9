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
step "types, import contracts, shell scripts"
.venv/bin/mypy &
types=$!
.venv/bin/lint-imports
git ls-files -co --exclude-standard -- '*.sh' .ci/run | xargs -r .venv/bin/shellcheck -x
wait "$types"
# Where it is set, each of the hundreds of processes that tests start compiles our modules.
unset PYTHONDONTWRITEBYTECODE
# Two threads for each of several processes on two cores are slower than one.
export OMP_NUM_THREADS=1
# Three files at a time, since many wait; whole systems first, so that the last file is a short one. Then, from the files
# that have some, the tests that measure time. Both parts run in any case.
failed=0
step "tests: three files at a time"
.venv/bin/python -m pytest -m "not alone" -n 3 --dist loadfile --no-loadscope-reorder || failed=1
step "tests: one by one"
mapfile -t files < <(git grep -l --untracked 'pytest\.mark\.alone' -- '*/test_*.py')
.venv/bin/python -m pytest -m alone "${files[@]}" || failed=1
((!failed)) || die "tests failed; see above"
