"""Checks of leaves (`rollback_failed_calls=leaf`) and of the penalty on failed calls against other keys."""

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from verl_cleaner.preflight.finding import Finding, error, warning
from verl_cleaner.preflight.names import MULTI_TURN
from verl_cleaner.saar.config import FailedCalls
from verl_cleaner.training.credit.config import credit_config
from verl_cleaner.training.credit.score import failed_call_score

_LEAF = f"{MULTI_TURN}.rollback_failed_calls=leaf"
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
    try:
        credit = credit_config(config.algorithm)
    except ValueError as problem:
        yield error(f"algorithm.{problem}")
        return
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    if credit.failed_call_penalty and not multi_turn.enable:
        yield error(
            f"algorithm.failed_call_penalty={credit.failed_call_penalty} needs tool calls, but multi_turn.enable="
            f"{multi_turn.enable}; switch tools on, or drop the penalty"
        )


def leaf_score(config: DictConfig) -> Iterator[Finding]:
    if not _has_leaves(config):
        return
    try:
        failed_call_score(config)
    except ValueError as problem:
        yield error(f"{MULTI_TURN}.{problem}")


def leaves(config: DictConfig) -> Iterator[Finding]:
    if not _has_leaves(config):
        return
    estimator, actor = str(config.algorithm.adv_estimator), config.actor_rollout_ref.actor
    if reason := _UNSUITABLE.get(estimator):
        yield error(
            f"{_LEAF} cannot be combined with algorithm.adv_estimator={estimator}: {reason}; expected {_SUITABLE}"
        )
    if config.algorithm.get("use_dpo_on_tool_calls", False):
        yield error(
            f"{_LEAF} cannot be combined with algorithm.use_dpo_on_tool_calls=True: both push the same failed calls "
            "down; choose one"
        )
    for key, why in _UNKNOWN_TO_LEAVES.items():
        if OmegaConf.select(config, key):
            yield error(f"{_LEAF} cannot be combined with {key}=True: {why}")
    if actor.strategy not in ("fsdp", "fsdp2"):
        yield warning(f"{_LEAF} has only been tried with {_ACTOR}.strategy=fsdp2 or fsdp, got {actor.strategy}")
    for section, path in ((actor, _ACTOR), (actor.get("fsdp_config") or {}, f"{_ACTOR}.fsdp_config")):
        size = section.get("ulysses_sequence_parallel_size", 1)
        if size > 1:
            yield warning(
                f"{_LEAF} has not been tried with sequence parallelism, expected "
                f"{path}.ulysses_sequence_parallel_size=1, got {size}"
            )


def _has_leaves(config: DictConfig) -> bool:
    return bool(config.actor_rollout_ref.rollout.multi_turn.get("rollback_failed_calls") == FailedCalls.LEAF)
