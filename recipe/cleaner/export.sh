#!/usr/bin/env bash
# Turn a checkpoint into a Hugging Face folder that transformers, SGLang and vLLM load:
#   bash recipe/cleaner/export.sh CHECKPOINT OUT
# CHECKPOINT is a run's checkpoints folder (its newest one is taken), one …/global_step_N, or the folder of the shards.
# PYTHON names the interpreter (empty: .venv).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=recipe/cleaner/lib/environment.sh
source "$ROOT/recipe/cleaner/lib/environment.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi
(($# == 2)) || die "expected CHECKPOINT and OUT, got $# arguments; see --help"
checkpoint=$1 out=$2
if [[ -f $checkpoint/latest_checkpointed_iteration.txt ]]; then
  checkpoint=$checkpoint/global_step_$(< "$checkpoint/latest_checkpointed_iteration.txt")
fi
[[ -d $checkpoint/actor ]] && checkpoint=$checkpoint/actor
[[ -f $checkpoint/huggingface/config.json ]] ||
  die "$1 holds no checkpoint: $checkpoint/huggingface/config.json is missing; name a …/global_step_N folder"
"${PYTHON:-$ROOT/.venv/bin/python}" -m verl.model_merger merge --backend fsdp --local_dir "$checkpoint" --target_dir "$out"
say "exported $checkpoint to $out"
