# shellcheck shell=bash
# Sourced by every recipe from the repository's root. A recipe names its defaults, calls the settings it is made of and
# then `train "$@"`; each setting is a Hydra override in SETTINGS, and what the user gives comes last.
#
#   agentic_rl     GRPO without KL, DAPO's clipping, FSDP2, a rollout engine, logging, checkpoints
#   large_model    sizes and lengths of the published runs, with offload
#   small_model    the same loop for a model of some 100M parameters on one GPU
#   with_rollback  CLEANER        without_rollback  the DAPO baseline        without_tools  no tools at all

# shellcheck source=recipe/cleaner/lib/environment.sh
source recipe/cleaner/lib/environment.sh
# shellcheck source=recipe/cleaner/lib/judge.sh
source recipe/cleaner/lib/judge.sh
# shellcheck source=recipe/cleaner/lib/knobs.sh
source recipe/cleaner/lib/knobs.sh

read_aliases
SETTINGS=()
# What else a recipe needs before the training starts.
PREPARE=(:)
readonly ACTOR=actor_rollout_ref.actor ROLL=actor_rollout_ref.rollout MODEL=actor_rollout_ref.model
readonly TURNS=$ROLL.multi_turn
# Where dataset/README.md puts them.
# shellcheck disable=SC2034  # read by the recipes
readonly AIME="dataset/Open-AgentRL-Eval/aime2024/aime_2024_problems.parquet \
dataset/Open-AgentRL-Eval/aime2025/aime_2025_problems.parquet"

set_() { SETTINGS+=("$@"); }

agentic_rl() {
  default NUM_GPU=4 NNODES=1 EPOCHS=1 SAVE_FREQ=10 TEST_FREQ=10 SEED=42 DTYPE=fp16 ROLLOUT=sglang \
    FAILED_CALLS=discard MAX_EXECUTION_TIME=4 EXPERIMENT_NAME="$(basename "$0" .sh)"
  default OUTPUT_DIR="outputs/$EXPERIMENT_NAME" ATTENTION="$(attention varlen)" REWARD_PATH=pkg://verl_cleaner.reward.router
  check_choice ROLLOUT sglang vllm
  check_choice DTYPE fp16 bf16
  check_choice FAILED_CALLS discard leaf
  check_number NUM_GPU NNODES SAVE_FREQ TEST_FREQ
  set_ algorithm.adv_estimator=grpo algorithm.use_kl_in_reward=False
  set_ data.train_files="$(hydra_list "$TRAIN_FILE")" data.val_files="$(hydra_list "$VAL_FILES")" data.seed="$SEED"
  set_ $MODEL.path="$MODEL_PATH" +$MODEL.override_config.attn_implementation="$ATTENTION"
  set_ $MODEL.use_remove_padding=True $MODEL.enable_gradient_checkpointing=True
  set_ $ACTOR.strategy=fsdp2 actor_rollout_ref.ref.strategy=fsdp2 $ACTOR.use_dynamic_bsz=True
  set_ $ACTOR.use_kl_loss=False $ACTOR.clip_ratio_low=0.2 $ACTOR.clip_ratio_high=0.28 $ACTOR.clip_ratio_c=10.0
  set_ $ACTOR.loss_agg_mode=token-mean $ACTOR.optim.lr="$LR"
  # A whole batch's entropy at once would need several copies of its logits; compiled, the loop over chunks is compiled
  # anew for every number of chunks.
  set_ $ACTOR.entropy_from_logits_with_chunking=True $ACTOR.fsdp_config.use_torch_compile=False
  set_ $ROLL.name="$ROLLOUT" $ROLL.tensor_model_parallel_size=1 $ROLL.temperature=1.0 $ROLL.top_p=1.0 $ROLL.seed="$SEED"
  set_ $TURNS.format=hermes $TURNS.max_assistant_turns=16
  set_ $ROLL.val_kwargs.do_sample=True $ROLL.val_kwargs.temperature=1.0
  precision
  bookkeeping
}

# The published key of the trained side is float16's own; the plug-in hands it on to what FSDP reads.
precision() {
  local name=float16
  [[ $DTYPE == bf16 ]] && name=bfloat16
  set_ $ACTOR.fsdp_config.dtype=$name $ROLL.dtype=$name
}

bookkeeping() {
  local loggers=console,file,tensorboard
  [[ -n ${WANDB_API_KEY:-} ]] && loggers+=,wandb
  set_ trainer.project_name=cleaner trainer.experiment_name="$EXPERIMENT_NAME" trainer.logger="[$loggers]"
  set_ trainer.nnodes="$NNODES" trainer.n_gpus_per_node="$NUM_GPU" trainer.total_epochs="$EPOCHS"
  set_ trainer.save_freq="$SAVE_FREQ" trainer.test_freq="$TEST_FREQ" trainer.default_local_dir="$OUTPUT_DIR/checkpoints"
  set_ trainer.rollout_data_dir="$OUTPUT_DIR/rollouts" trainer.validation_data_dir="$OUTPUT_DIR/validation"
  set_ hydra.run.dir="$OUTPUT_DIR/hydra"
  [[ -n ${STEPS:-} ]] && set_ trainer.total_training_steps="$STEPS"
  set_ reward.custom_reward_function.path="$REWARD_PATH"
  if [[ -n ${RESUME_DIR:-} ]]; then
    set_ trainer.resume_mode=resume_path trainer.resume_from_path="$RESUME_DIR"
  else
    set_ trainer.resume_mode=auto
  fi
}

# large_model VALIDATION_SAMPLES
large_model() {
  # Files in any schema of dataset/README.md, each prompt in the words of its row's own source.
  set_ data.custom_cls.path=pkg://verl_cleaner.dataset.rl_dataset data.custom_cls.name=CleanerDataset
  if [[ -n ${PROMPT_SOURCES:-} ]]; then
    set_ data.prompt_sources="$PROMPT_SOURCES" +reward.custom_reward_function.reward_kwargs.sources="$PROMPT_SOURCES"
  fi
  set_ data.train_batch_size=128 data.max_prompt_length=2560 data.max_response_length=20480
  set_ data.filter_overlong_prompts=True data.truncation=error
  set_ $ROLL.n=16 $ROLL.gpu_memory_utilization=0.7 $ROLL.val_kwargs.top_p=0.6 $ROLL.val_kwargs.n="$1"
  set_ $ACTOR.ppo_mini_batch_size=32 $ACTOR.ppo_max_token_len_per_gpu=23040 $ACTOR.optim.lr_warmup_steps=20
  set_ $ACTOR.fsdp_config.param_offload=True $ACTOR.fsdp_config.optimizer_offload=True
  # A reply longer than 16,384 tokens loses up to 1 point.
  set_ reward.reward_manager.name=dapo +reward.reward_kwargs.max_resp_len=20480
  set_ +reward.reward_kwargs.overlong_buffer_cfg.enable=True +reward.reward_kwargs.overlong_buffer_cfg.len=4096
  set_ +reward.reward_kwargs.overlong_buffer_cfg.penalty_factor=1.0 +reward.reward_kwargs.overlong_buffer_cfg.log=False
}

small_model() {
  set_ data.train_batch_size=64 data.max_prompt_length=512 data.max_response_length=1024
  set_ $ROLL.n=8 $ROLL.gpu_memory_utilization=0.4 $ROLL.val_kwargs.top_p=1.0 $ROLL.val_kwargs.n=1
  set_ $TURNS.max_tool_response_length=400
  set_ $ACTOR.ppo_mini_batch_size=32 $ACTOR.ppo_max_token_len_per_gpu=16384 $ACTOR.optim.lr_warmup_steps=2
  set_ $MODEL.enable_gradient_checkpointing=False
  # Capturing prefill graphs takes a minute of every start.
  [[ $ROLLOUT == sglang ]] && set_ +$ROLL.engine_kwargs.sglang.disable_prefill_cuda_graph=True
  return 0
}

# with_rollback PROBABILITY. A repaired call's rollout log-probs are of no use (docs/saar.md), so none are asked for.
with_rollback() {
  local probability=$1
  if [[ $FAILED_CALLS == leaf ]]; then
    # With half of each group unrepaired, as docs/experiments.md recommends.
    probability=0.5
    set_ +$TURNS.rollback_failed_calls=leaf +$TURNS.rollback_stratified=True
  fi
  set_ +$TURNS.enable_tool_rollback=True +$TURNS.max_tool_retries=3 +$TURNS.rollback_probability="$probability"
  set_ $ROLL.calculate_log_probs=False
}

without_rollback() {
  [[ $FAILED_CALLS == discard ]] || die "FAILED_CALLS=$FAILED_CALLS needs rollback, which this recipe does without; expected discard"
  set_ +$TURNS.enable_tool_rollback=False $ROLL.calculate_log_probs=True
  set_ algorithm.rollout_correction.rollout_is=sequence algorithm.rollout_correction.rollout_is_threshold=2.0
}

without_tools() {
  without_rollback
  set_ $TURNS.enable=False
}

# train [key=value …]: help, dry run, or the training with what it needs.
train() {
  handle_arguments "$@"
  local command=("$(interpreter)" -m verl_cleaner.main_ppo "${SETTINGS[@]}" "$@")
  print_if_dry "${command[@]}"
  check_cluster
  prepare_python --extra "$ROLLOUT"
  "${PREPARE[@]}"
  mkdir -p "$OUTPUT_DIR"
  export MAX_EXECUTION_TIME
  VERL_FILE_LOGGER_PATH=$(realpath -m "$OUTPUT_DIR/metrics.jsonl") TENSORBOARD_DIR=$(realpath -m "$OUTPUT_DIR/tensorboard")
  export VERL_FILE_LOGGER_PATH TENSORBOARD_DIR
  # For tools and for the rewards of programs.
  start_judge "$OUTPUT_DIR"
  # exec: the judge watches this process.
  exec "${command[@]}"
}

# handle_arguments …: --help, or Hydra overrides.
handle_arguments() {
  local argument
  for argument; do
    case $argument in
      -h | --help)
        show_help "$0"
        exit 0
        ;;
      *=* | ~*) ;;
      *) die "unknown argument '$argument'; expected --help or Hydra overrides key=value (knobs come from the environment)" ;;
    esac
  done
}

print_if_dry() {
  if [[ ${DRY_RUN:-} == 1 ]]; then
    printf '%q ' "$@"
    printf '\n'
    exit 0
  fi
}

check_cluster() {
  if ((NNODES > 1)) && [[ -z ${CODE_JUDGE_URL:-} ]]; then
    die "NNODES=$NNODES needs CODE_JUDGE_URL, the address of a judge that every node reaches; see docs/multi-node.md"
  fi
}

interpreter() { printf '%s' "${PYTHON:-.venv/bin/python}"; }

# prepare_python [uv sync options]: nothing where PYTHON names an environment of the user's own.
prepare_python() {
  [[ -n ${PYTHON:-} ]] || setup_environment --no-dev --inexact "$@"
}

# The engines bring a package flash_attn of other contents; what counts is the distribution flash-attn. Without it,
# PyTorch's kernel of the same kind (verl_cleaner/engine/attention.py); without a GPU, plain attention.
#   attention FALLBACK
attention() {
  if "$(interpreter)" -c 'import importlib.metadata as m; m.version("flash-attn")' 2> /dev/null; then
    printf flash_attention_2
  else
    printf '%s' "$1"
  fi
}
