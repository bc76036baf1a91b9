"""Importing this module changes VeRL's engine in this process. VeRL's workers import it as `model.external_lib`.

attention    adds `attn_implementation: varlen`: packed sequences without flash-attn
log-probs    without flash-attn, VeRL loops over rows in Python; a tensor operation on chunks of rows replaces the loop
precision    the FSDP engine logs in which dtype it computes
"""

import verl.utils.torch_functional as torch_functional
from wrapt import register_post_import_hook

from verl_cleaner.engine.attention import register as register_attention
from verl_cleaner.engine.logprobs import logprobs_from_logits
from verl_cleaner.engine.precision import log_autocast

torch_functional.logprobs_from_logits_v2 = logprobs_from_logits
register_post_import_hook(register_attention, "transformers.modeling_utils")
register_post_import_hook(log_autocast, "verl.workers.engine.fsdp.transformer_impl")
