"""Overwrite a failed turn with its retry, token for token.

failed:  R0 | C0        R = reasoning tokens, C = tool-call tokens
retry:   R1 | C1
similar   (ratio >= threshold):  R0 + C1   the reasoning that led here stands
different (ratio <  threshold):  R1 + C1   the plan changed, so its reasoning comes along
"""

from dataclasses import replace
from enum import StrEnum

from verl_cleaner.saar.segment import Turn


class Strategy(StrEnum):
    TOOL_CALL_ONLY = "tool_call_only"
    FULL_TURN = "full_turn"


def overwrite_turn(
    failed: Turn, retry: Turn, *, ratio: float, threshold: float, room: int
) -> tuple[Turn, Strategy] | None:
    """Return the turn to train on and what it is made of, or None where not even the retry fits into `room` tokens.

    A turn that cannot be split, or a mix that does not fit, is replaced as a whole; so is every turn at threshold 1.
    """
    if ratio >= threshold and threshold < 1 and failed.boundary is not None and retry.boundary is not None:
        mixed = replace(failed.reasoning + retry.tool_call, boundary=failed.boundary)
        if len(mixed) <= room:
            return mixed, Strategy.TOOL_CALL_ONLY
    if len(retry) <= room:
        return retry, Strategy.FULL_TURN
    return None
