#!/usr/bin/env bash
# Evaluate a model: sample every problem several times, with tools, keep the trajectories, report.
#   bash recipe/cleaner/eval/eval.sh MODEL SUITE… [key=value …]
# MODEL is a Hugging Face folder, a hub name, or what export.sh made. SUITE is aime2024, aime2025, gpqa, livecodebench,
# humaneval, or a data file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=recipe/cleaner/lib/evaluate.sh
source recipe/cleaner/lib/evaluate.sh

evaluate "$@"
