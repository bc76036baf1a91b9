#!/usr/bin/env bash
# AIME 2024, AIME 2025 and GPQA diamond as published for Qwen3-4B: 16 samples a problem, rollback with K = 3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=recipe/cleaner/lib/evaluate.sh
source recipe/cleaner/lib/evaluate.sh

default MODEL_PATH=Gen-Verse/Qwen3-4B-RA-SFT SAMPLES=16
evaluate "$MODEL_PATH" aime2024 aime2025 gpqa "$@"
