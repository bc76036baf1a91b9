#!/usr/bin/env bash
# SmolLM2-135M with CLEANER on reasoning-gym tasks. One GPU, no model hub; the cold start is trained first (sft.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/common.sh
source recipe/cleaner/lib/common.sh
# shellcheck source=recipe/cleaner/lib/smollm2.sh
source recipe/cleaner/lib/smollm2.sh

default COLD_START=outputs/smollm2_135m DTYPE=bf16 LR=5e-6 NUM_GPU=1 EPOCHS=100 STEPS=100
default MODEL_PATH="$COLD_START/sft" TRAIN_FILE="$COLD_START/data/train.parquet" VAL_FILES="$COLD_START/data/val.parquet"
default REWARD_PATH=pkg://verl_cleaner.reward.reasoning_gym
agentic_rl
small_model
with_rollback 1.0
PREPARE=(smollm2_cold_start)
train "$@"
