"""Checks of what failed calls are used for, against other keys: leaves, pairs, and the penalty."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.finding import Finding, error, refusal, warning
from verl_cleaner.preflight.names import MULTI_TURN
from verl_cleaner.saar.config import FailedCalls
from verl_cleaner.training.credit.penalty import failed_call_penalty
from verl_cleaner.training.credit.score import failed_call_score
from verl_cleaner.training.pairs.config import Reference, dpo_config

_LEAF = f"{MULTI_TURN}.rollback_failed_calls=leaf"
_DPO = "algorithm.use_dpo_on_tool_calls=True"
_ACTOR = "actor_rollout_ref.actor"
_UNSUITABLE = {
    "gae": "a critic has no value of a leaf",
    "remax": "its baseline is a greedy trajectory, not the group",
    "gdpo": "it reads several rewards, and a leaf has one",
    "grpo_passk": "only the best member of a group gets an advantage, so no leaf does",
    "optimal_token_baseline": "it reads per-token sums that are computed for trajectories only",
    "tir_optimal_token_baseline": "it reads per-token sums that are computed for trajectories only",
}
"""Advantage estimators that cannot take leaves, and why."""
_UNKNOWN_TO_LEAVES = {
    "distillation.enabled": "its loss reads the teacher's log-probs, which a leaf has none of",
    "actor_rollout_ref.rollout.enable_rollout_routing_replay": "a leaf's routing is not recorded",
}
_SUITABLE = "grpo, rloo, reinforce_plus_plus, reinforce_plus_plus_baseline, opo, gpg or one of the vectorized forms"


def penalty(config: DictConfig) -> Iterator[Finding]:
    yield from refusal("algorithm.", failed_call_penalty, config.algorithm)
    charged, enabled = config.algorithm.get("failed_call_penalty"), config.actor_rollout_ref.rollout.multi_turn.enable
    if charged and not enabled:
        yield error(
            f"algorithm.failed_call_penalty={charged} needs tool calls, but multi_turn.enable={enabled}; "
            "switch tools on, or drop the penalty"
        )


def leaf_score(config: DictConfig) -> Iterator[Finding]:
    if _has_leaves(config):
        yield from refusal(f"{MULTI_TURN}.", failed_call_score, config)


def leaves(config: DictConfig) -> Iterator[Finding]:
    if not _has_leaves(config):
        yield from _of_no_leaf(config)
        return
    estimator, strategy = str(config.algorithm.adv_estimator), config.actor_rollout_ref.actor.strategy
    if reason := _UNSUITABLE.get(estimator):
        yield error(
            f"{_LEAF} cannot be combined with algorithm.adv_estimator={estimator}: {reason}; expected {_SUITABLE}"
        )
    if config.algorithm.get("use_dpo_on_tool_calls", False):
        yield error(f"{_LEAF} cannot be combined with {_DPO}: both push the same failed calls down; choose one")
    for key, why in _UNKNOWN_TO_LEAVES.items():
        if OmegaConf.select(config, key):
            yield error(f"{_LEAF} cannot be combined with {key}=True: {why}")
    if strategy not in ("fsdp", "fsdp2"):
        yield warning(f"{_LEAF} has only been tried with {_ACTOR}.strategy=fsdp2 or fsdp, got {strategy}")
    yield from _sequence_parallelism(config, _LEAF)


def _of_no_leaf(config: DictConfig) -> Iterator[Finding]:
    for key in ("rollback_failed_call_score", "rollback_failed_call_weight"):
        given = config.actor_rollout_ref.rollout.multi_turn.get(key)
        if given is not None:
            yield warning(f"{MULTI_TURN}.{key}={given} does nothing without {_LEAF}, expected both or neither")


def pairs(config: DictConfig) -> Iterator[Finding]:
    try:
        dpo = dpo_config(config.algorithm)
    except ValueError as problem:
        yield error(f"algorithm.{problem}")
        return
    if not dpo.use_dpo_on_tool_calls:
        return
    multi_turn, strategy = config.actor_rollout_ref.rollout.multi_turn, config.actor_rollout_ref.actor.strategy
    saved = multi_turn.get("save_negative_samples", False)
    if saved is not True:
        yield error(f"{_DPO} needs {MULTI_TURN}.save_negative_samples=True, got {saved}: without it there are no pairs")
    if multi_turn.get("max_negative_samples_per_group", 1) == 0:
        yield error(f"{_DPO} needs {MULTI_TURN}.max_negative_samples_per_group of at least 1, got 0")
    if strategy not in ("fsdp", "fsdp2"):
        yield error(f"{_DPO} needs {_ACTOR}.strategy=fsdp2 or fsdp, got {strategy}, which keeps gradients elsewhere")
    yield from _sequence_parallelism(config, _DPO)
    if dpo.dpo_reference == Reference.REF:
        yield from _no_reference(config)


def _sequence_parallelism(config: DictConfig, setting: str) -> Iterator[Finding]:
    for path in (_ACTOR, f"{_ACTOR}.fsdp_config"):
        key = f"{path}.ulysses_sequence_parallel_size"
        size = OmegaConf.select(config, key, default=1)
        if size > 1:
            yield warning(f"{setting} has not been tried with sequence parallelism, expected {key}=1, got {size}")


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


def _has_leaves(config: DictConfig) -> bool:
    return bool(config.actor_rollout_ref.rollout.multi_turn.get("rollback_failed_calls") == FailedCalls.LEAF)
