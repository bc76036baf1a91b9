#!/usr/bin/env bash
# Qwen3-4B, the DAPO baseline: the same run without rollback, corrected by sequence importance sampling. Four GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/common.sh
source recipe/cleaner/lib/common.sh

default MODEL_PATH=Gen-Verse/Qwen3-4B-RA-SFT LR=2e-6 TRAIN_FILE=dataset/Open-AgentRL-30K/filtered_sr.parquet
default VAL_FILES="$AIME"
agentic_rl
large_model 16
without_rollback
train "$@"
