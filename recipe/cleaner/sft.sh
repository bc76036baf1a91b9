#!/usr/bin/env bash
# Cold start: supervised fine-tuning on multi-turn tool conversations, with VeRL's SFT trainer. Without MODEL_PATH and
# TRAIN_FILE: SmolLM2-135M on generated traces. The result is OUTPUT_DIR/sft, a Hugging Face folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=recipe/cleaner/lib/common.sh
source recipe/cleaner/lib/common.sh
# shellcheck source=recipe/cleaner/lib/smollm2.sh
source recipe/cleaner/lib/smollm2.sh

KNOBS=(
  "MODEL_PATH|Hugging Face folder or hub name of the model to fine-tune; the default is made from the Python registry"
  "TRAIN_FILE|parquet file with the columns messages and tools; the default is generated"
  "VAL_FILES|the same, held out; empty: none"
  "OUTPUT_DIR|model, checkpoints and metrics go here"
  "EXPERIMENT_NAME|name of the run in the loggers"
  "NUM_GPU|GPUs per node"
  "RESUME_DIR|checkpoint folder (…/global_step_N) to go on from; empty: the newest one in OUTPUT_DIR, if any"
  "LR|learning rate"
  "EPOCHS|passes over the training set"
  "STEPS|optimizer steps; empty: as many as EPOCHS make"
  "SAVE_FREQ|steps between checkpoints, -1: only the last"
  "SEED|of the generated data"
  "DTYPE|bf16 or fp16"
  "ROLLOUT|which extra to install, sglang or vllm; the cold start itself needs neither"
  "ATTENTION|attention of the model; empty: flash_attention_2 where flash-attn is installed, else varlen (sdpa on cpu)"
  "DEVICE|cuda, or cpu for a trial with a tiny model"
  "WANDB_API_KEY|also log to Weights & Biases; read from the environment by wandb itself, never written anywhere"
  "PYTHON|interpreter of an environment that has everything; empty: .venv, made to match uv.lock"
  "DRY_RUN|1: print the command and start nothing"
)

default COLD_START=outputs/smollm2_135m
default OUTPUT_DIR="$COLD_START" EXPERIMENT_NAME=sft NUM_GPU=1 LR=3e-4 EPOCHS=1 SAVE_FREQ=-1 DTYPE=bf16 ROLLOUT=sglang
default SEED=0 DEVICE=cuda
default ATTENTION="$(attention "$([[ $DEVICE == cpu ]] && echo sdpa || echo varlen)")"
# Both are made below where they are these.
default MODEL_PATH="$COLD_START/base" TRAIN_FILE="$COLD_START/data/sft_train.parquet"
[[ $TRAIN_FILE == "$COLD_START/data/sft_train.parquet" ]] && default VAL_FILES="$COLD_START/data/sft_val.parquet"
check_choice DTYPE bf16 fp16
check_choice DEVICE cuda cpu
check_number NUM_GPU

settings() {
  local loggers=console,file
  [[ -n ${WANDB_API_KEY:-} ]] && loggers+=,wandb
  set_ model.path="$MODEL_PATH" +model.override_config.attn_implementation="$ATTENTION" model.use_remove_padding=True
  set_ model.enable_gradient_checkpointing=False engine.strategy=fsdp2
  # "varlen" and the faster log-probs.
  set_ model.external_lib=verl_cleaner.engine.install
  set_ +engine.mixed_precision.param_dtype="$DTYPE"
  set_ data.train_files="$(hydra_list "$TRAIN_FILE")" data.train_batch_size=128 data.max_length=2048 data.num_workers=2
  set_ data.use_dynamic_bsz=True data.max_token_len_per_gpu=8192 engine.use_torch_compile=False
  set_ optim.lr="$LR" optim.lr_scheduler_type=cosine optim.lr_warmup_steps_ratio=0.05 optim.weight_decay=0.01
  set_ trainer.project_name=cleaner trainer.experiment_name="$EXPERIMENT_NAME" trainer.logger="[$loggers]"
  set_ trainer.n_gpus_per_node="$NUM_GPU" trainer.total_epochs="$EPOCHS" trainer.save_freq="$SAVE_FREQ"
  set_ trainer.default_local_dir="$OUTPUT_DIR/checkpoints" trainer.device="$DEVICE" hydra.run.dir="$OUTPUT_DIR/hydra"
  [[ -n ${VAL_FILES:-} ]] && set_ data.val_files="$(hydra_list "$VAL_FILES")"
  [[ -n ${STEPS:-} ]] && set_ trainer.total_training_steps="$STEPS"
  [[ -n ${RESUME_DIR:-} ]] && set_ trainer.resume_mode=resume_path trainer.resume_from_path="$RESUME_DIR"
  return 0
}

settings
handle_arguments "$@"
COMMAND=("$(interpreter)" -m torch.distributed.run --standalone --nproc_per_node="$NUM_GPU" -m verl.trainer.sft_trainer)
COMMAND+=("${SETTINGS[@]}" "$@")
print_if_dry "${COMMAND[@]}"
prepare_python --extra "$ROLLOUT"
[[ $MODEL_PATH == "$COLD_START/base" ]] && smollm2_model "$MODEL_PATH"
[[ $TRAIN_FILE == "$COLD_START/data/sft_train.parquet" ]] && smollm2_data "$COLD_START/data"
mkdir -p "$OUTPUT_DIR"
# VeRL's plug-ins read the platform from there.
[[ $DEVICE == cpu ]] && export VERL_PLATFORM=cpu
VERL_FILE_LOGGER_PATH=$(realpath -m "$OUTPUT_DIR/sft_metrics.jsonl")
export VERL_FILE_LOGGER_PATH
"${COMMAND[@]}"
PYTHON="$(interpreter)" bash recipe/cleaner/export.sh "$OUTPUT_DIR/checkpoints" "$OUTPUT_DIR/sft"
