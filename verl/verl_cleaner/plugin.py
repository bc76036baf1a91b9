"""Everything CLEANER hooks into VeRL, in one place.

VeRL loads this module at the end of `import verl`, in every process (entry point `verl.plugins`). A process pays for an
import only when it uses it: names are registered when VeRL imports the registry in question, classes are imported when
VeRL instantiates them.

What is changed, on every device:
    agent loop   "tool_agent" is ours; with rollback off it behaves as VeRL's.
    trainer      "cleaner" = VeRL's synchronous trainer + rollback metrics + a stop on lost groups; for DPO on tool
                 calls it asks for an actor worker of ours, VeRL's + the pairs' gradient (`training.pairs`).
    log-probs    VeRL's per-row Python loop, used where flash-attn is missing, becomes a chunked tensor operation.
    attention    "varlen": packed sequences without flash-attn.
    precision    the FSDP engine says in which dtype it computes.
and on CPU only (VERL_PLATFORM=cpu) what `verl_cleaner.engine.cpu` lists.
"""

import os
from types import ModuleType

import verl.utils.torch_functional as torch_functional
from wrapt import register_post_import_hook

from verl_cleaner.engine.attention import register as register_attention
from verl_cleaner.engine.logprobs import logprobs_from_logits
from verl_cleaner.engine.precision import log_autocast

TOOL_AGENT_LOOP = "verl_cleaner.rollout.tool_agent_loop.ToolAgentLoop"


def _register_agent_loop(_: ModuleType) -> None:
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    _agent_loop_registry["tool_agent"] = {"_target_": TOOL_AGENT_LOOP}


def _register_trainer(_: ModuleType) -> None:
    import verl_cleaner.training.trainer  # noqa: F401  registers itself


torch_functional.logprobs_from_logits_v2 = logprobs_from_logits
# After VeRL's own "tool_agent" has registered itself.
register_post_import_hook(_register_agent_loop, "verl.experimental.agent_loop.tool_agent_loop")
register_post_import_hook(_register_trainer, "verl.trainer.ppo.v1.trainer_sync")
register_post_import_hook(register_attention, "transformers.modeling_utils")
register_post_import_hook(log_autocast, "verl.workers.engine.fsdp.transformer_impl")

if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    from verl_cleaner.engine.cpu import register

    register()
