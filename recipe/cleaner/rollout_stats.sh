#!/usr/bin/env bash
# How often does a model solve each row of a training set? Rolls every row out ATTEMPTS times, as an evaluation over the
# training set, and writes the statistics that data_filter.sh reads. Interrupted, the same command goes on; what is complete
# by then is in STATS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/evaluate.sh
source recipe/cleaner/lib/evaluate.sh

# shellcheck disable=SC2034  # read by show_help
KNOBS=(
  "MODEL_PATH|Hugging Face folder or hub name of the model to roll out"
  "TRAIN_FILE|the training set, in any schema of dataset/README.md"
  "STATS|the statistics, JSON Lines"
  "ATTEMPTS|attempts a row: 1, 2, 4 or 8"
  "ROLLBACK|on: with rollback (K = 3), off: the bare model"
  "CHUNK|rows that are rolled out together and kept together"
  "LIMIT|only the first rows; empty: all"
  "OUTPUT_DIR|trajectories, settings and logs"
  "${ROLLOUT_KNOBS[@]}"
)

default MODEL_PATH=Gen-Verse/Qwen3-4B-RA-SFT TRAIN_FILE=dataset/Open-AgentRL-30K/Open-AgentRL-30K.parquet
default STATS="${TRAIN_FILE%.parquet}.filtered.parquet.success.jsonl" OUTPUT_DIR=outputs/rollout_stats
default ATTEMPTS=8 ROLLBACK=off CHUNK=256 NUM_GPU=4 NNODES=1 ROLLOUT=sglang MAX_EXECUTION_TIME=4
check_choice ATTEMPTS 1 2 4 8
check_choice ROLLBACK on off
check_choice ROLLOUT sglang vllm cpu
check_number CHUNK
handle_arguments "$@"

options=(--dataset "$TRAIN_FILE" --evaluation "$OUTPUT_DIR" --out "$STATS" --attempts "$ATTEMPTS")
options+=(--model "$MODEL_PATH" --chunk "$CHUNK")
[[ $ROLLBACK == off ]] || options+=(--rollback)
[[ -z ${LIMIT:-} ]] || options+=(--limit "$LIMIT")
[[ -z ${PROMPT_SOURCES:-} ]] || options+=(--sources "$PROMPT_SOURCES")
words=("$MODEL_PATH") SAMPLES=$ATTEMPTS VAL_SAVE_PATH=$OUTPUT_DIR
evaluation_settings
# As in training, not as in evaluation.
set_ $ROLL.val_kwargs.top_p=1.0 $ROLL.val_kwargs.temperature=1.0
COMMAND=("$(interpreter)" -m verl_cleaner.evaluation.rollout_stats "${options[@]}" "${SETTINGS[@]}" "$@")
print_if_dry "${COMMAND[@]}"
check_cluster
if [[ $ROLLOUT == cpu ]]; then prepare_python; else prepare_python --extra "$ROLLOUT"; fi
export MAX_EXECUTION_TIME
# For tools and for the rewards of programs.
start_judge "$OUTPUT_DIR"
# exec: the judge watches this process.
exec "${COMMAND[@]}"
