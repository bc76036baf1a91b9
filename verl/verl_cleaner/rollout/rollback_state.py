"""What the loop remembers of one trajectory: its state to go back to, its switches and budgets, its record."""

from dataclasses import dataclass, fields
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData
from verl.experimental.agent_loop.tool_parser import FunctionCall

from verl_cleaner.saar.config import RollbackConfig
from verl_cleaner.saar.gate import passes_gate
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
    """SAAR for one trajectory: whether it may roll back, its retry policy, its record and its pairs.

    step: of the training. pairs: of failed and repaired calls, in order; None where none are kept, as at validation.
    """

    def __init__(self, config: RollbackConfig, *, validate: bool, step: int, key: tuple[object, ...]) -> None:
        self.config = config
        self.max_retries = config.max_tool_retries
        self.error_patterns = config.rollback_on_errors
        self.enable = config.enable_tool_rollback and (config.rollback_at_validation or not validate)
        # The share applies to training; at validation it is all or none.
        self.eligible = self.enable and (validate or passes_gate(config.probability_at(step), *key))
        self.policy = RetryPolicy(config, active=self.eligible)
        self.record = TrajectoryRecord(enabled=self.enable, eligible=self.eligible)
        self.pairs: list[Pair] | None = [] if config.save_negative_samples and not validate else None

    def close_turn(self, *, recovered: bool, pair: Pair | None) -> None:
        """A turn that was rolled back is over. pair: of the last overwrite."""
        if recovered and pair is not None and self.pairs is not None:
            self.pairs.append(pair)
        self.record.recovered += recovered
        self.record.failed += not recovered
        self.policy.close_turn(recovered=recovered)
