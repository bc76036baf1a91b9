# shellcheck shell=bash
# Sourced by common.sh: what a recipe reads from the environment.

# name|what it means. A recipe's own defaults are set before; --help prints the values in force.
KNOBS=(
  "MODEL_PATH|Hugging Face folder or hub name of the model to start from"
  "TRAIN_FILE|parquet file of the training set"
  "VAL_FILES|parquet files of the held-out sets, separated by spaces or commas"
  "PROMPT_SOURCES|YAML with sources and prompt templates of your own, for the 4B and 7B recipes (dataset/README.md)"
  "OUTPUT_DIR|checkpoints, rollouts, metrics and logs go here"
  "EXPERIMENT_NAME|name of the run in the loggers"
  "NUM_GPU|GPUs per node"
  "NNODES|nodes; more than one needs a running Ray cluster and CODE_JUDGE_URL (docs/multi-node.md)"
  "RESUME_DIR|checkpoint folder (…/global_step_N) to go on from; empty: the newest one in OUTPUT_DIR, if any"
  "LR|learning rate"
  "EPOCHS|passes over the training set"
  "STEPS|RL steps; empty: as many as EPOCHS make"
  "SAVE_FREQ|steps between checkpoints"
  "TEST_FREQ|steps between validations"
  "SEED|of data order and sampling"
  "DTYPE|fp16 or bf16, for training and rollout alike"
  "FAILED_CALLS|what CLEANER does with a failed call that was repaired: discard it, as published, or train on it as a leaf of its group and repair half of each group only (docs/credit.md)"
  "ROLLOUT|rollout engine: sglang or vllm"
  "ATTENTION|attention of the trained model; empty: flash_attention_2 where flash-attn is installed, else varlen"
  "REWARD_PATH|Python file or pkg://module with the reward function compute_score"
  "CODE_JUDGE_URL|address of a running judge; empty: the recipe starts one and stops it with the run"
  "MAX_EXECUTION_TIME|seconds of wall and CPU time for one execution, for the judge the recipe starts"
  "WANDB_API_KEY|also log to Weights & Biases; read from the environment by wandb itself, never written anywhere"
  "PYTHON|interpreter of an environment that has everything; empty: .venv, made to match uv.lock"
  "DRY_RUN|1: print the command and start nothing"
)

# The published scripts' names for some of them.
ALIASES=(train_dataset=TRAIN_FILE num_GPU=NUM_GPU resume_dir=RESUME_DIR model_path=MODEL_PATH)

# read_aliases: a lower-case name counts where its knob is not set.
read_aliases() {
  local pair alias knob
  for pair in "${ALIASES[@]}"; do
    alias=${pair%%=*} knob=${pair#*=}
    if [[ -n ${!alias:-} && -z ${!knob:-} ]]; then
      printf -v "$knob" '%s' "${!alias}"
    fi
  done
}

# default KNOB=VALUE …: for knobs that are unset or empty.
default() {
  local pair knob
  for pair; do
    knob=${pair%%=*}
    [[ -n ${!knob:-} ]] || printf -v "$knob" '%s' "${pair#*=}"
  done
}

show_help() {
  local script=$1 entry knob value
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"
  printf '\n  bash %s [key=value …]\n\n' "${script#"$PWD"/}"
  printf 'key=value are Hydra overrides of VeRL'\''s configuration; they win. Knobs, from the environment:\n\n'
  for entry in "${KNOBS[@]}"; do
    knob=${entry%%|*} value=${!knob:-}
    [[ $knob == WANDB_API_KEY && -n $value ]] && value="(set)"
    printf '  %-19s %s\n  %-19s   now: %s\n' "$knob" "${entry#*|}" "" "${value:-(empty)}"
  done
  printf '\nThe published names work too:'
  printf ' %s' "${ALIASES[@]}"
  printf '\n'
}

# check_choice KNOB VALUE…
check_choice() {
  local knob=$1 choice
  shift
  for choice; do
    [[ ${!knob} == "$choice" ]] && return
  done
  die "$knob must be one of $*, got ${!knob}"
}

# check_number KNOB…: positive whole numbers.
check_number() {
  local knob
  for knob; do
    [[ ${!knob} =~ ^[1-9][0-9]*$ ]] || die "$knob must be a positive whole number, got ${!knob}"
  done
}

# hydra_list FILES: separated by spaces or commas, as a Hydra list of quoted strings.
hydra_list() {
  local file list=""
  for file in ${1//,/ }; do
    list+=${list:+,}"'$file'"
  done
  printf '[%s]' "$list"
}
