"""Checks of DPO on tool calls: ranges of its keys, and other keys that it needs."""

from collections.abc import Iterator

from omegaconf import DictConfig

from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import MULTI_TURN
from verl_cleaner.training.pairs.config import Reference, dpo_config

_USE = "algorithm.use_dpo_on_tool_calls=True"
_ACTOR = "actor_rollout_ref.actor"


def pairs(config: DictConfig) -> Iterator[Finding]:
    try:
        dpo = dpo_config(config.algorithm)
    except ValueError as problem:
        yield error(f"algorithm.{problem}")
        return
    if not dpo.use_dpo_on_tool_calls:
        return
    multi_turn, actor = config.actor_rollout_ref.rollout.multi_turn, config.actor_rollout_ref.actor
    if multi_turn.get("save_negative_samples", False) is not True:
        yield error(
            f"{_USE} needs {MULTI_TURN}.save_negative_samples=True, got "
            f"{multi_turn.get('save_negative_samples', False)}: without it there are no pairs"
        )
    if multi_turn.get("max_negative_samples_per_group", 1) == 0:
        yield error(f"{_USE} needs {MULTI_TURN}.max_negative_samples_per_group of at least 1, got 0")
    if actor.strategy not in ("fsdp", "fsdp2"):
        yield error(
            f"{_USE} needs {_ACTOR}.strategy=fsdp2 or fsdp, got {actor.strategy}, which keeps gradients elsewhere"
        )
    for section, path in ((actor, _ACTOR), (actor.get("fsdp_config") or {}, f"{_ACTOR}.fsdp_config")):
        size = section.get("ulysses_sequence_parallel_size", 1)
        if size > 1:
            yield warning(
                f"{_USE} has not been tried with sequence parallelism, expected "
                f"{path}.ulysses_sequence_parallel_size=1, got {size}"
            )
    if dpo.dpo_reference == Reference.REF:
        yield from _no_reference(config)


def _no_reference(config: DictConfig) -> Iterator[Finding]:
    """The reference policy of a LoRA actor is the actor without its adapter."""
    from verl.trainer.ppo.utils import need_reference_policy

    model = config.actor_rollout_ref.model
    rank = max(model.get("lora_rank", 0), (model.get("lora") or {}).get("rank", 0))
    if not need_reference_policy(config) and rank <= 0 and model.get("lora_adapter_path") is None:
        yield error(
            "algorithm.dpo_reference=ref needs a reference policy, but no KL term asks VeRL for one; set "
            f"{_ACTOR}.use_kl_loss=True ({_ACTOR}.kl_loss_coef=0 if you want no KL term), or dpo_reference=none"
        )
