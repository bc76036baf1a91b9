# shellcheck shell=bash
# Sourced by the evaluations from the repository's root: the settings of the published numbers around
# `python -m verl_cleaner.evaluation run`.

# shellcheck source=recipe/cleaner/lib/common.sh
source recipe/cleaner/lib/common.sh

# Of everything that rolls a model out over a data set.
ROLLOUT_KNOBS=(
  "PROMPT_SOURCES|YAML with sources and prompt templates of your own (dataset/README.md)"
  "NUM_GPU|GPUs per node"
  "NNODES|nodes; more than one needs a running Ray cluster and CODE_JUDGE_URL (docs/multi-node.md)"
  "SEED|of the sampling"
  "DTYPE|fp16 or bf16"
  "ROLLOUT|rollout engine: sglang, vllm, or cpu for small models without a GPU"
  "ATTENTION|attention of the model; empty: flash_attention_2 where flash-attn is installed, else varlen"
  "CODE_JUDGE_URL|address of a running judge; empty: the script starts one and stops it with the run"
  "MAX_EXECUTION_TIME|seconds of wall and CPU time for one execution, for the judge the script starts"
  "PYTHON|interpreter of an environment that has everything; empty: .venv, made to match uv.lock"
  "DRY_RUN|1: print the command and start nothing"
)

# shellcheck disable=SC2034  # read by show_help
KNOBS=(
  "MODEL_PATH|model to evaluate, where it is no argument: folder, hub name, or what export.sh made"
  "VAL_SAVE_PATH|trajectories, logs and report go here; the same folder goes on with an interrupted evaluation"
  "SAMPLES|samples a problem"
  "ROLLBACK|test-time rollback: on, off, or both, which are then compared"
  "RETRIES|K of the rollback"
  "CHUNK|problems that are sampled together and kept together"
  "LIMIT|problems of each suite; empty: all"
  "${ROLLOUT_KNOBS[@]}"
  "MAX_MEMORY|MB for one execution, for the judge the script starts"
)

# evaluate MODEL SUITE… [key=value …]
evaluate() {
  default SAMPLES=16 ROLLBACK=on RETRIES=3 CHUNK=64 NUM_GPU=4 \
    NNODES=1 ROLLOUT=sglang MAX_EXECUTION_TIME=4 MAX_MEMORY=1024
  local argument words=()
  for argument; do
    case $argument in
      -h | --help)
        show_help "$0"
        exit 0
        ;;
      *=*) SETTINGS_LAST+=("$argument") ;;
      -*) die "unknown argument '$argument'; expected MODEL SUITE… [key=value …] (knobs come from the environment)" ;;
      *) words+=("$argument") ;;
    esac
  done
  ((${#words[@]} >= 2)) || die "expected MODEL and at least one SUITE, got ${words[*]:-nothing}; see --help"
  default VAL_SAVE_PATH="outputs/eval/$(basename "${words[0]}")/$(suite_names "${words[@]:1}")"
  check_choice ROLLOUT sglang vllm cpu
  check_choice ROLLBACK on off both
  check_number SAMPLES RETRIES CHUNK
  local options=(--model "${words[0]}" --out "$VAL_SAVE_PATH" --samples "$SAMPLES" --rollback "$ROLLBACK")
  options+=(--retries "$RETRIES" --chunk "$CHUNK")
  [[ -z ${LIMIT:-} ]] || options+=(--limit "$LIMIT")
  [[ -z ${PROMPT_SOURCES:-} ]] || options+=(--sources "$PROMPT_SOURCES")
  evaluation_settings
  options+=(--suites "${words[@]:1}" "${SETTINGS[@]}" "${SETTINGS_LAST[@]}")
  local command=("$(interpreter)" -m verl_cleaner.evaluation run "${options[@]}")
  print_if_dry "${command[@]}"
  check_cluster
  if [[ $ROLLOUT == cpu ]]; then prepare_python; else prepare_python --extra "$ROLLOUT"; fi
  # Some tests of LiveCodeBench expect more than a megabyte of output.
  export MAX_EXECUTION_TIME MAX_MEMORY MAX_OUTPUT_SIZE=${MAX_OUTPUT_SIZE:-16777216}
  start_judge "$VAL_SAVE_PATH"
  # exec: the judge watches this process.
  exec "${command[@]}"
}

SETTINGS_LAST=()

# suite_names SUITE…: joined by +, files without folder and suffix.
suite_names() {
  local suite names=()
  for suite; do
    suite=$(basename "$suite")
    names+=("${suite%.*}")
  done
  local IFS=+
  printf '%s' "${names[*]}"
}

# evaluation_settings: engine and lengths; on CPU those of the quickstart.
evaluation_settings() {
  if [[ $ROLLOUT == cpu ]]; then
    export OMP_NUM_THREADS=1
    options+=(--config-name quickstart)
    [[ -z ${SEED:-} ]] || set_ $ROLL.seed="$SEED"
    return
  fi
  # Files, checkpoints, sources and loggers are the runner's.
  TRAIN_FILE="" VAL_FILES="" PROMPT_SOURCES="" LR=1e-6 MODEL_PATH="${words[0]}" OUTPUT_DIR="$VAL_SAVE_PATH"
  agentic_rl
  large_model "$SAMPLES"
  set_ data.max_prompt_length=4096
}
