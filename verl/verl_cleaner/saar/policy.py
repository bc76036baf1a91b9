"""Decides about the retries of one trajectory; generates and runs nothing.

A turn is retried while rollback is active, its kinds are wanted and no budget is used up: retries of the turn, retries
of the trajectory, tokens of the trajectory's retries. A turn that stays failed switches rollback off for good.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from verl_cleaner.saar.config import RollbackConfig


@dataclass(slots=True)
class RetryPolicy:
    """Pure state machine: owns no tasks and no clients.

    active: this trajectory may still roll back.
    retries: of the turn in progress. total, tokens: of the trajectory.
    """

    config: RollbackConfig
    active: bool
    retries: int = 0
    total: int = 0
    tokens: int = 0

    def begin_turn(self) -> None:
        self.retries = 0

    def triggers(self, kinds: Sequence[str]) -> bool:
        """True if the turn in progress, whose calls failed with `kinds`, is to be tried again."""
        config = self.config
        if not self.active or self.retries >= config.max_tool_retries or self._tokens_left() < 1:
            return False
        if config.rollback_max_retries is not None and self.total >= config.rollback_max_retries:
            return False
        return any(config.rollback_on_errors is None or kind in config.rollback_on_errors for kind in kinds)

    def budget(self, *, response_left: int, context_left: int) -> int:
        """Tokens the next retry may have; below 1 there is no room.

        response_left: response_length minus the response that the retry is appended to; the repaired turn must stay
        below it for its tools to run. context_left: max_model_len minus the side context.
        """
        return min(response_left - 1, context_left - 1, self._tokens_left())

    def begin_retry(self) -> None:
        self.retries += 1
        self.total += 1

    def end_retry(self, *, generated: int) -> None:
        self.tokens += generated

    def close_turn(self, *, recovered: bool) -> None:
        """The turn in progress was retried, or would have been, and is over."""
        self.active = self.active and recovered

    def _tokens_left(self) -> int:
        limit = self.config.rollback_max_tokens
        return 1 << 60 if limit is None else limit - self.tokens
