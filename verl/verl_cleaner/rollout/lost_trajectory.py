"""Trajectories that ended in an exception, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from verl_cleaner.saar.outcome import InfrastructureError
from verl_cleaner.saar.values import expect, is_integer, is_number


class LossCause(StrEnum):
    OUTAGE = "outage"
    """Infrastructure failed: the judge, a tool's server, a reward worker that died."""
    REWARD = "reward"
    """The reward function raised an exception."""
    BUG = "bug"
    """Any other exception in an agent loop."""


class RewardErrors(StrEnum):
    """What an exception of the reward function does."""

    LOSE = "lose"
    """The group is lost and counted; the first exception of each class is logged with its traceback."""
    STOP = "stop"
    """It ends the run."""


@dataclass(frozen=True, slots=True)
class LostTrajectory:
    """message: the error, with its traceback unless it is an outage. kind: class name of the error. validate: it was
    sampled for a validation, during which asynchronous trainers go on to sample for training."""

    uid: str
    cause: LossCause
    message: str
    kind: str = ""
    validate: bool = False


class RolloutError(RuntimeError):
    """An exception in an agent loop that is not an outage."""


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """When lost groups end a run. The keys are in the section `trainer`; validation and evaluation obey them too.

    max_lost_share: of a step's groups; more than that ends the run.
    min_lost_groups: fewer than that never end it, whatever their share. For steps of few groups.
    reward_errors: see `RewardErrors`.

    Raises:
        ValueError: for a value out of range; names the key, the value and what is expected.
    """

    max_lost_share: float = 0.1
    min_lost_groups: int = 1
    reward_errors: RewardErrors = RewardErrors.LOSE

    def __post_init__(self) -> None:
        share, groups, errors = self.max_lost_share, self.min_lost_groups, self.reward_errors
        expect(is_number(share) and 0 <= share < 1, "trainer.max_lost_share", share, "in [0, 1)")
        expect(is_integer(groups, least=1), "trainer.min_lost_groups", groups, "an integer >= 1")
        expect(errors in list(RewardErrors), "trainer.reward_errors", errors, f"one of {', '.join(RewardErrors)}")

    @classmethod
    def of(cls, trainer: Any) -> "FailurePolicy":
        """trainer: the configuration's section, any mapping."""
        return cls(**{key: trainer[key] for key in cls.__dataclass_fields__ if key in trainer})


def check_lost(
    lost: Sequence[LostTrajectory], *, groups: int, step: int, policy: FailurePolicy | None = None
) -> dict[str, LossCause]:
    """Return the uids of the groups to drop, with the cause of the first loss of each.

    Args:
        groups: that the step asked for.

    Raises:
        RolloutError: for a bug, for an exception of the reward function where the policy says so, and where more groups
            are lost than the policy allows and none of them to an outage.
        InfrastructureError: more groups are lost than the policy allows, some of them to an outage.
    """
    policy = policy or FailurePolicy()
    for trajectory in lost:
        if trajectory.cause is LossCause.BUG:
            raise RolloutError(f"step {step}: an agent loop failed: {trajectory.message}")
        if trajectory.cause is LossCause.REWARD and policy.reward_errors == RewardErrors.STOP:
            raise RolloutError(f"step {step}: the reward function failed: {trajectory.message}")
    causes = {trajectory.uid: trajectory.cause for trajectory in reversed(lost)}
    if len(causes) >= policy.min_lost_groups and len(causes) > policy.max_lost_share * groups:
        outages = sum(cause is LossCause.OUTAGE for cause in causes.values())
        raise (InfrastructureError if outages else RolloutError)(
            f"step {step}: {len(causes)} of {groups} groups were lost, {outages} to outages and "
            f"{len(causes) - outages} to exceptions of the reward function; at most {policy.max_lost_share:.0%} may be "
            f"(trainer.max_lost_share), so the run stopped before the update. Cause: {lost[0].message}"
        )
    return causes
