"""Trajectories that ended in an exception, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from verl_cleaner.saar.outcome import InfrastructureError

MAX_LOST_SHARE = 0.1
"""Of a step's groups; above it the run stops."""


@dataclass(frozen=True, slots=True)
class LostTrajectory:
    """infrastructure: our outage, as against a bug. message: the error, for a bug with its traceback."""

    uid: str
    infrastructure: bool
    message: str


class RolloutError(RuntimeError):
    """An exception in an agent loop that is not an outage."""


def check_lost(lost: Sequence[LostTrajectory], *, groups: int, step: int) -> set[str]:
    """Return the uids of the groups to drop.

    Raises:
        RolloutError: for an exception that is not an outage.
        InfrastructureError: if more than MAX_LOST_SHARE of the groups is gone.
    """
    for trajectory in lost:
        if not trajectory.infrastructure:
            raise RolloutError(f"step {step}: an agent loop failed: {trajectory.message}")
    uids = {trajectory.uid for trajectory in lost}
    if len(uids) > MAX_LOST_SHARE * groups:
        raise InfrastructureError(
            f"step {step}: {len(uids)} of {groups} groups were lost to infrastructure failures, at most "
            f"{MAX_LOST_SHARE:.0%} may be; stopped before the update. Cause: {lost[0].message}"
        )
    return uids
