"""VeRL's multi-turn configuration with SAAR's parameters, so that `+...multi_turn.enable_tool_rollback=True` works."""

from dataclasses import dataclass, fields
from typing import Any, Optional

from verl.workers.config.rollout import MultiTurnConfig as StockMultiTurnConfig

from verl_cleaner.saar.config import RollbackConfig


@dataclass
class MultiTurnConfig(StockMultiTurnConfig):
    """Fields as in `RollbackConfig`, which checks them."""

    enable_tool_rollback: bool = False
    max_tool_retries: int = 3
    rollback_probability: float = 1.0
    rollback_anneal_steps: Optional[int] = None
    rollback_at_validation: bool = True
    rollback_similarity_threshold: float = 0.5
    rollback_similarity_on: str = "arguments"
    rollback_on_errors: Optional[list] = None
    rollback_logprobs: str = "recompute"
    rollback_min_logratio: Optional[float] = None
    rollback_mode: str = "overwrite"
    rollback_feedback: str = "raw"
    rollback_max_retries: Optional[int] = None
    rollback_max_tokens: Optional[int] = None
    save_negative_samples: bool = False
    max_negative_samples_per_group: int = 1
    rollback_failed_calls: str = "discard"
    rollback_failed_call_score: Optional[float] = None
    rollback_stratified: bool = False
    trajectory_deadline: Optional[float] = 7200.0

    def __post_init__(self) -> None:
        self.rollback()

    def rollback(self) -> RollbackConfig:
        return rollback_config({field.name: getattr(self, field.name) for field in fields(self)})


ROLLBACK_KEYS = tuple(field.name for field in fields(RollbackConfig))


def rollback_config(multi_turn: Any) -> RollbackConfig:
    """SAAR's part of a multi-turn section (any mapping). Raises ValueError for bad values."""
    values = {key: multi_turn[key] for key in ROLLBACK_KEYS if key in multi_turn}
    kinds = values.get("rollback_on_errors")
    if kinds is not None and not isinstance(kinds, (str, int, float)):
        values["rollback_on_errors"] = tuple(kinds)
    return RollbackConfig(**values)
