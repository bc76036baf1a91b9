"""A trajectory's state before or behind a turn, which can be restored."""

from dataclasses import dataclass, fields
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import AgentData
from verl.experimental.agent_loop.tool_parser import FunctionCall


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What VeRL's loop keeps of a trajectory on `AgentData`, field by field.

    VeRL's loop and ours replace the lists of tokens and never change them in place, so they are held as they are. The
    other lists are copied on the way in and on the way out.
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
