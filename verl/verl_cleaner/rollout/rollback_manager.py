"""SAAR for one trajectory: whether it may roll back, its retry policy, its record, its pairs and its leaves."""

from collections.abc import Mapping

from verl_cleaner.rollout.tools.contract import EVERY_TOOL
from verl_cleaner.rollout.turn import ToolTurn
from verl_cleaner.saar.config import FailedCalls, RollbackConfig
from verl_cleaner.saar.gate import in_stratum, passes_gate
from verl_cleaner.saar.leaf import Leaf, make_leaf
from verl_cleaner.saar.pair import Pair, make_pair
from verl_cleaner.saar.policy import RetryPolicy
from verl_cleaner.saar.record import TrajectoryRecord


class RollbackManager:
    """What the loop decides and remembers of one trajectory beyond VeRL's `AgentData`.

    Args:
        step: of the training; the first is 1.
        key: what the gate is drawn from; ends with the index of the rollout in its group.

    Attributes:
        enable: rollback is configured for this kind of trajectory (training or validation).
        max_retries: of one turn.
        eligible: it is, and the gate lets this trajectory roll back.
        pairs: of failed and repaired calls, in order; None where none are kept, as at validation.
        leaves: first attempts that were repaired, in order; None where none are kept, as at validation.
    """

    def __init__(self, config: RollbackConfig, *, validate: bool, step: int, key: tuple[object, ...]) -> None:
        self.config = config
        self.enable = config.applies(validate=validate)
        # The share applies to training; at validation it is all or none.
        self.eligible = self.enable and (validate or self._may_roll_back(step, key))
        self.max_retries = config.max_tool_retries
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

    @property
    def error_patterns(self) -> Mapping[str, str]:
        """Regular expression -> verdict, for the responses of every tool (`tool_contracts."*".on_text`)."""
        patterns: Mapping[str, str] = self.config.contracts.get(EVERY_TOOL, {}).get("on_text") or {}
        return patterns

    def close_turn(self, turn: ToolTurn) -> None:
        """A turn that was rolled back, or would have been, is over."""
        if turn.recovered and turn.repaired is not None and turn.repaired_from is not None:
            start, first, last = turn.start, turn.attempts[0].tokens, turn.attempts[-2].tokens
            if self.pairs is not None and (pair := make_pair(last, turn.repaired, start=start)):
                self.pairs.append(pair)
            replaced_from = turn.repaired_from
            if self.leaves is not None and (
                leaf := make_leaf(first, turn.repaired, replaced_from=replaced_from, start=start)
            ):
                self.leaves.append(leaf)
        self.record.recovered += turn.recovered
        self.record.failed += not turn.recovered
        self.policy.close_turn(recovered=turn.recovered)
