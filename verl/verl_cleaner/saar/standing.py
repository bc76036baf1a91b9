"""Which failed calls stand in a trajectory as it ended: those that no retry overwrote."""

from collections import defaultdict

from verl_cleaner.saar.metrics import Record
from verl_cleaner.saar.record import RetryResult


def standing_failures(record: Record) -> list[tuple[int, int]]:
    """Spans [start, end) of the response, see `Attempt.span`. record: a `TrajectoryRecord` as plain data."""
    results: dict[int, list[str]] = defaultdict(list)
    for retry in record["retries"]:
        results[retry["turn"]].append(retry["result"])
    numbers: dict[int, int] = defaultdict(int)
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
