#!/usr/bin/env bash
# How often does a model solve each row of a training set? Rolls every row out ATTEMPTS times and writes the statistics that
# data_filter.sh reads. Interrupted, the same command goes on; STATS has every row that is complete by then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/common.sh
source recipe/cleaner/lib/common.sh

KNOBS=(
  "MODEL_PATH|Hugging Face folder or hub name of the model to roll out"
  "TRAIN_FILE|the training set, in any schema of dataset/README.md"
  "STATS|where the statistics go"
  "ATTEMPTS|attempts a row: 1, 2, 4 or 8"
  "ROLLBACK|on: with rollback (K = 3), off: the bare model"
  "CHUNK|rows that are rolled out and kept at a time"
  "LIMIT|only the first rows; empty: all"
  "PROMPT_SOURCES|YAML with sources and prompt templates of your own (dataset/README.md)"
  "OUTPUT_DIR|the evaluation: trajectories, settings and logs"
  "NUM_GPU|GPUs per node"
  "NNODES|nodes; more than one needs a running Ray cluster and CODE_JUDGE_URL (docs/multi-node.md)"
  "SEED|of sampling"
  "DTYPE|fp16 or bf16"
  "ROLLOUT|rollout engine: sglang or vllm"
  "ATTENTION|attention of the model; empty: flash_attention_2 where flash-attn is installed, else sdpa"
  "CODE_JUDGE_URL|address of a running judge; empty: the script starts one and stops it with the run"
  "MAX_EXECUTION_TIME|seconds of wall and CPU time for one execution, for the judge the script starts"
  "PYTHON|interpreter of an environment that has everything; empty: .venv, made to match uv.lock"
  "DRY_RUN|1: print the command and start nothing"
)

default MODEL_PATH=Gen-Verse/Qwen3-4B-RA-SFT TRAIN_FILE=dataset/Open-AgentRL-30K/Open-AgentRL-30K.parquet
default ATTEMPTS=8 ROLLBACK=off CHUNK=256 STATS="${TRAIN_FILE%.parquet}.filtered.parquet.success.jsonl"
check_choice ATTEMPTS 1 2 4 8
check_choice ROLLBACK on off
check_number CHUNK
# Read by the settings, of no importance where nothing is trained.
default LR=1e-6 VAL_FILES="$TRAIN_FILE"
agentic_rl
set_ data.max_prompt_length=2560 data.max_response_length=20480
set_ $ROLL.gpu_memory_utilization=0.7 $ROLL.val_kwargs.top_p=1.0
set_ $ACTOR.fsdp_config.param_offload=True $ACTOR.fsdp_config.optimizer_offload=True
set_ $ACTOR.ppo_max_token_len_per_gpu=23040

handle_arguments "$@"
COMMAND=("$(interpreter)" -m verl_cleaner.dataset.stats --dataset "$TRAIN_FILE" --evaluation "$OUTPUT_DIR" --out "$STATS")
COMMAND+=(--attempts "$ATTEMPTS" --model "$MODEL_PATH" --chunk "$CHUNK")
[[ $ROLLBACK == on ]] && COMMAND+=(--rollback)
[[ -n ${LIMIT:-} ]] && COMMAND+=(--limit "$LIMIT")
[[ -n ${PROMPT_SOURCES:-} ]] && COMMAND+=(--sources "$PROMPT_SOURCES")
COMMAND+=("${SETTINGS[@]}" "$@")
print_if_dry "${COMMAND[@]}"
check_cluster
prepare_python --extra "$ROLLOUT"
export MAX_EXECUTION_TIME
# For tools and for the rewards of programs.
start_judge "$OUTPUT_DIR"
# exec: the judge watches this process.
exec "${COMMAND[@]}"
