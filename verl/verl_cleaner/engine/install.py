"""Importing this module changes the engine of the process it is imported in; VeRL does so for `model.external_lib`.

attention    "varlen": packed sequences without flash-attn, for those who ask for it by name
log-probs    VeRL's per-row Python loop, used where flash-attn is missing, becomes a chunked tensor operation
precision    the FSDP engine says in which dtype it computes
"""

import verl.utils.torch_functional as torch_functional
from wrapt import register_post_import_hook

from verl_cleaner.engine.attention import register as register_attention
from verl_cleaner.engine.logprobs import logprobs_from_logits
from verl_cleaner.engine.precision import log_autocast

torch_functional.logprobs_from_logits_v2 = logprobs_from_logits
register_post_import_hook(register_attention, "transformers.modeling_utils")
register_post_import_hook(log_autocast, "verl.workers.engine.fsdp.transformer_impl")
