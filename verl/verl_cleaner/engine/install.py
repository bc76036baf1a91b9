"""Importing this module changes VeRL's engine in this process. VeRL's workers import it as `model.external_lib`.

attention    adds `attn_implementation: varlen`: packed sequences without flash-attn
log-probs    without flash-attn, VeRL loops over rows in Python; a tensor operation on chunks of rows replaces the loop
precision    the FSDP engine logs in which dtype it computes: several configuration keys look as if they decided it
critic       VeRL loads a critic with flash-attn, whatever the configuration says; here with the attention it names
checkpoints  VeRL writes the name of the attention into config.json; nobody else knows `varlen`, so it is left out
"""

import json
import logging
from functools import wraps
from pathlib import Path
from typing import Any

import verl.utils.torch_functional as torch_functional
from wrapt import register_post_import_hook

from verl_cleaner.engine.attention import NAME as VARLEN
from verl_cleaner.engine.attention import register as register_attention
from verl_cleaner.engine.logprobs import logprobs_from_logits

logger = logging.getLogger(__name__)


def _log_precision(module: Any) -> None:
    """Wrap the engine of `verl.workers.engine.fsdp.transformer_impl`."""
    stock = module.FSDPEngine._build_fsdp_module

    @wraps(stock)
    def build(engine: Any, *args: Any, **kwargs: Any) -> Any:
        result = stock(engine, *args, **kwargs)
        if engine.rank == 0:
            # A warning, as VeRL's workers show no lower level.
            logger.warning(
                "FSDP engine: autocast %s, loss scaling %s", engine._autocast_dtype, engine.scaler is not None
            )
        return result

    module.FSDPEngine._build_fsdp_module = build


def _critic_attention(module: Any) -> None:
    """Wrap the loader of `verl.utils.model`, which else says that trl is missing where flash-attn is."""
    stock = module.load_valuehead_model

    @wraps(stock)
    def load(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        named = model_config._attn_implementation
        if named == "flash_attention_2":
            return stock(local_path, torch_dtype, model_config, trust_remote_code)
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            config=model_config,
            dtype=torch_dtype,
            attn_implementation=named,
            trust_remote_code=trust_remote_code,
        )

    module.load_valuehead_model = load


def _saved_attention(module: Any) -> None:
    """Wrap the manager of `verl.utils.checkpoint.fsdp_checkpoint_manager`.

    With `varlen` in the file, VeRL's model merger and `from_pretrained` fail where this module is not imported.
    """
    stock = module.FSDPCheckpointManager.save_checkpoint

    @wraps(stock)
    def save(manager: Any, local_path: str | None, *args: Any, **kwargs: Any) -> None:
        stock(manager, local_path, *args, **kwargs)
        if local_path is None or manager.rank != 0:
            return
        path = Path(local_path) / "huggingface/config.json"
        content = json.loads(path.read_text())
        if content.get("attn_implementation") == VARLEN:
            del content["attn_implementation"]
            path.write_text(json.dumps(content, indent=2) + "\n")

    module.FSDPCheckpointManager.save_checkpoint = save


torch_functional.logprobs_from_logits_v2 = logprobs_from_logits
register_post_import_hook(register_attention, "transformers.modeling_utils")
register_post_import_hook(_log_precision, "verl.workers.engine.fsdp.transformer_impl")
register_post_import_hook(_critic_attention, "verl.utils.model")
register_post_import_hook(_saved_attention, "verl.utils.checkpoint.fsdp_checkpoint_manager")
