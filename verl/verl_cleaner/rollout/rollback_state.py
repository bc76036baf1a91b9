"""What the loop remembers of one trajectory: its state to go back to, its switches and budgets, its record."""

from dataclasses import dataclass, fields
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData
from verl.experimental.agent_loop.tool_parser import FunctionCall

from verl_cleaner.saar.config import FailedCalls, RollbackConfig
from verl_cleaner.saar.gate import in_stratum, passes_gate
from verl_cleaner.saar.leaf import Leaf
from verl_cleaner.saar.pair import Pair
from verl_cleaner.saar.policy import RetryPolicy
from verl_cleaner.saar.record import TrajectoryRecord


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A trajectory's state, to go back to.

    VeRL's loop and ours replace the lists of tokens and never change them in place, so they are held as they are; the
    others are copied on the way in and on the way out.
    """

    prompt_ids: list[int]
    response_mask: list[int]
    response_logprobs: list[float]
    messages: list[dict[str, Any]]
    image_data: list[Any] | None
    turn_scores: list[float]
    tool_rewards: list[float]
    tool_calls: list[FunctionCall]
    routed_experts: Any
    user_turns: int
    assistant_turns: int

    @classmethod
    def of(cls, agent_data: AgentData) -> "Snapshot":
        return cls(**{name: _copy(name, getattr(agent_data, name)) for name in _FIELDS})

    def restore(self, agent_data: AgentData) -> None:
        for name in _FIELDS:
            setattr(agent_data, name, _copy(name, getattr(self, name)))


_FIELDS = tuple(field.name for field in fields(Snapshot))
_REPLACED = ("prompt_ids", "response_mask", "response_logprobs", "tool_calls", "routed_experts")


def _copy(name: str, value: Any) -> Any:
    return list(value) if isinstance(value, list) and name not in _REPLACED else value


class RollbackManager:
    """SAAR for one trajectory: whether it may roll back, its retry policy, its record, its pairs and its leaves.

    step: of the training. key: ends with the index of the rollout in its group. pairs: of failed and repaired calls, in
    order; leaves: first attempts that were repaired, in order; None where none are kept, as at validation.
    """

    def __init__(self, config: RollbackConfig, *, validate: bool, step: int, key: tuple[object, ...]) -> None:
        self.config = config
        self.max_retries = config.max_tool_retries
        self.error_patterns = config.rollback_on_errors
        self.enable = config.enable_tool_rollback and (config.rollback_at_validation or not validate)
        # The share applies to training; at validation it is all or none.
        self.eligible = self.enable and (validate or self._may_roll_back(step, key))
        self.policy = RetryPolicy(config, active=self.eligible)
        self.record = TrajectoryRecord(enabled=self.enable, eligible=self.eligible)
        self.pairs: list[Pair] | None = [] if config.save_negative_samples and not validate else None
        keeps_leaves = config.rollback_failed_calls == FailedCalls.LEAF and not validate
        self.leaves: list[Leaf] | None = [] if keeps_leaves else None

    def _may_roll_back(self, step: int, key: tuple[object, ...]) -> bool:
        probability, rollout = self.config.probability_at(step), key[-1]
        if self.config.rollback_stratified:
            assert isinstance(rollout, int), rollout
            return in_stratum(probability, rollout)
        return passes_gate(probability, *key)

    def close_turn(self, *, recovered: bool, pair: Pair | None, leaf: Leaf | None) -> None:
        """A turn that was rolled back is over. pair, leaf: of the last overwrite."""
        if recovered and pair is not None and self.pairs is not None:
            self.pairs.append(pair)
        if recovered and leaf is not None and self.leaves is not None:
            self.leaves.append(leaf)
        self.record.recovered += recovered
        self.record.failed += not recovered
        self.policy.close_turn(recovered=recovered)
