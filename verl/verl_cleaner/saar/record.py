"""What happened to a trajectory."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

Record = Mapping[str, Any]
"""A `TrajectoryRecord` as plain data, the form in which it travels."""

RECORD_FIELD = "rollback_record"
"""The name under which a trajectory's record travels, as plain data, among the agent loop's extra fields."""


class RetryResult(StrEnum):
    OVERWRITTEN = "overwritten"
    KEPT = "kept"
    """`rollback_mode=keep`: the retry follows the failed turn."""
    VOIDED = "voided"
    """`rollback_mode=void`: the same, and the failed turn is not trained on."""
    NO_CALL = "no_call"
    """The retry answered without a call: nothing is purified."""
    NO_ROOM = "no_room"
    """A budget does not hold a retry, or the repaired turn."""
    IMPLAUSIBLE = "implausible"
    """The repair's gap is below `rollback_min_logratio`."""


GOES_ON = (RetryResult.OVERWRITTEN, RetryResult.KEPT, RetryResult.VOIDED)
"""The calls of the retry are to be run."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a turn's calls. The last attempt of a turn is the one that stays in the trajectory.

    kinds: one a call, None where it succeeded. seconds: one a call, waiting included.
    span: where a call failed, the turn's tool-call segment [start, end) in the response; the whole turn where it cannot
    be split. Of an attempt that was overwritten, where it stood.
    """

    turn: int
    kinds: tuple[str | None, ...]
    seconds: tuple[float, ...]
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """One retry of a failed turn. similarity and strategy are None unless it was compared and overwritten.

    failed_call, new_call: the arguments as the tool sees them, which are compared. malformed: malformed calls of the
    failed turn as written.
    generated: tokens of the retry; discarded: sampled tokens of failed turn and retry that are not trained on.
    seconds: what the retry took to generate.
    span: the overwritten tokens [start, end) of the response, None where nothing was overwritten.
    gap: log π(span | clean) - log π(span | as sampled), where the engine scored it.
    """

    turn: int
    kinds: tuple[str, ...]
    result: RetryResult
    failed_call: str
    error: str
    malformed: str = ""
    new_call: str = ""
    similarity: float | None = None
    strategy: str | None = None
    generated: int = 0
    discarded: int = 0
    seconds: float = 0.0
    span: tuple[int, int] | None = None
    gap: float | None = None


@dataclass(slots=True)
class TrajectoryRecord:
    """Filled in while the trajectory is sampled.

    enabled: rollback is configured for this kind of trajectory. eligible: the gate let this one through.
    """

    enabled: bool
    eligible: bool
    attempts: list[Attempt] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    recovered: int = 0
    failed: int = 0
    response_tokens: int = 0
    sampled_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def overwritten_spans(self) -> dict[int, tuple[int, int]]:
        """By turn, as the trajectory ended."""
        return {retry.turn: retry.span for retry in self.retries if retry.span is not None}

    def note_gap(self, turn: int, gap: float) -> None:
        """The gap of the turn's last overwrite."""
        last = max(i for i, retry in enumerate(self.retries) if retry.turn == turn and retry.span is not None)
        self.retries[last] = replace(self.retries[last], gap=gap)


def standing_failures(record: Record) -> list[tuple[int, int]]:
    """Spans, as in `Attempt`, of the failed attempts that no retry overwrote: they stand in the trajectory."""
    results: dict[int, list[str]] = defaultdict(list)
    for retry in record["retries"]:
        results[retry["turn"]].append(retry["result"])
    numbers: Counter[int] = Counter()
    spans = []
    for attempt in record["attempts"]:
        # The turn's n-th retry follows its n-th attempt.
        turn, number = attempt["turn"], numbers[attempt["turn"]]
        numbers[turn] += 1
        overwritten = results[turn][number : number + 1] == [RetryResult.OVERWRITTEN]
        if attempt["span"] is not None and not overwritten:
            start, end = attempt["span"]
            spans.append((start, end))
    return spans
