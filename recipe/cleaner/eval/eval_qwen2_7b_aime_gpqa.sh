#!/usr/bin/env bash
# AIME 2024, AIME 2025 and GPQA diamond as published for Qwen2.5-7B: 32 samples a problem, rollback with K = 3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=recipe/cleaner/lib/evaluate.sh
source recipe/cleaner/lib/evaluate.sh

default MODEL_PATH=Gen-Verse/Qwen2.5-7B-RA-SFT SAMPLES=32
evaluate "$MODEL_PATH" aime2024 aime2025 gpqa "$@"
