#!/usr/bin/env bash
# LiveCodeBench v6 (2025-02 to 2025-05) as published for Qwen3-4B: 10 samples a problem, rollback with K = 3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=recipe/cleaner/lib/evaluate.sh
source recipe/cleaner/lib/evaluate.sh

# The benchmark's own limit for a test.
default MODEL_PATH=Gen-Verse/Qwen3-4B-RA-SFT SAMPLES=10 MAX_EXECUTION_TIME=6
evaluate "$MODEL_PATH" livecodebench "$@"
