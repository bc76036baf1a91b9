#!/usr/bin/env bash
# Build the wheels of both distributions and try them as a user has them, away from the checkout: version, what the plug-in
# registers, the quickstart's first step.
#   bash tests/wheels.sh             over the packages of .venv, which are not installed again
#   bash tests/wheels.sh --full PY   in a fresh environment of the interpreter PY, with what the wheels ask for at the lock's
#                                    versions (some GB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
# shellcheck source=recipe/cleaner/lib/judge.sh
source recipe/cleaner/lib/judge.sh
PATH="$PWD/.venv-uv/bin:$PATH"
export OMP_NUM_THREADS=1 MAX_EXECUTION_TIME=2

checkout=$PWD
# Short: Ray keeps sockets in TMPDIR.
folder=$(mktemp -d /tmp/wheels-XXXXXX)
trap 'rm -rf "$folder"' EXIT
for package in code-judge verl-cleaner; do
  uv build --quiet --wheel --package "$package" --out-dir "$folder/dist"
done
PYTHON=$folder/env/bin/python
if [[ ${1:-} == --full ]]; then
  uv venv --quiet --no-managed-python --python "$2" "$folder/env"
  wheel=$(echo "$folder"/dist/verl_cleaner-*.whl)
  grep -v '^#' requirements.txt > "$folder/constraints.txt"
  uv pip install --quiet --compile-bytecode --python "$PYTHON" --constraint "$folder/constraints.txt" \
    "$folder"/dist/code_judge-*.whl "${wheel}[lab]"
  uv pip check --python "$PYTHON"
else
  uv venv --quiet --no-managed-python --python .venv/bin/python "$folder/env"
  uv pip install --quiet --no-deps --compile-bytecode --python "$PYTHON" "$folder"/dist/*.whl
  # Behind its own packages, those of .venv; a path file that lies there is not followed, so the checkout stays out.
  .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    > "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
fi

mkdir -p "$folder/work"
cd "$folder/work"
"$PYTHON" - "$folder" "$(< "$checkout/VERSION")" << 'END'
import sys
from importlib.metadata import version
from importlib.resources import files

folder, expected = sys.argv[1:]
for distribution, package in ("verl-cleaner", "verl_cleaner"), ("verl-cleaner", "cleaner_lab"), ("code-judge", "code_judge"):
    assert version(distribution) == expected, f"{distribution} is {version(distribution)}, VERSION says {expected}"
    where = str(files(package))
    assert where.startswith(folder), f"{package} comes from {where}"
import verl
from verl.trainer.ppo.v1 import get_trainer_cls

assert get_trainer_cls("cleaner").__module__ == "verl_cleaner.plugin"
print(f"[wheels] {expected} on Python {sys.version.split()[0]}")
END
export PYTHON TMPDIR=$folder
start_judge "$folder/work"
OUTPUT_DIR=$folder/work/run "$PYTHON" -m cleaner_lab.nano.quickstart --steps 1 data.val_max_samples=32
[[ ! -e outputs ]] || die "the quickstart made a cold start; the wheel should hold the one that it uses"
say "the wheels work"
