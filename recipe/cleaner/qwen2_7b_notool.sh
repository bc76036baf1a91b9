#!/usr/bin/env bash
# Qwen2.5-7B without tools: reasoning only. Four GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/common.sh
source recipe/cleaner/lib/common.sh

default MODEL_PATH=Gen-Verse/Qwen2.5-7B-RA-SFT LR=1e-6 TRAIN_FILE=dataset/Open-AgentRL-30K/filtered_sr.parquet
default VAL_FILES="$AIME"
agentic_rl
large_model 32
without_tools
train "$@"
