"""The metrics of two small records, by hand."""

import pytest

from verl_cleaner.saar.metrics import rollback_metrics
from verl_cleaner.saar.overwrite import Strategy
from verl_cleaner.saar.record import Attempt, Retry, RetryResult, TrajectoryRecord


def retry(turn, result, **values):
    return Retry(turn, ("NameError",), result, "old", "error", **values)


def records(enabled=True):
    """The first: turn 1 fails, is overwritten, fails, is overwritten and ok; turn 2 fails and its repair is refused.
    The second: two calls in a turn, one of which times out, without rollback."""
    one = TrajectoryRecord(enabled=enabled, eligible=enabled, recovered=1, failed=1, sampled_tokens=100)
    one.attempts += [
        Attempt(1, ("NameError",), (0.1,)),
        Attempt(1, ("NameError",), (0.2,)),
        Attempt(1, (None,), (0.3,)),
        Attempt(2, ("TypeError",), (0.4,)),
    ]
    first = {"strategy": Strategy.FULL_TURN, "similarity": 0.1, "discarded": 25, "gap": 2.0}
    second = {"strategy": Strategy.TOOL_CALL_ONLY, "similarity": 0.85, "discarded": 15, "gap": -4.0}
    one.retries += [
        retry(1, RetryResult.OVERWRITTEN, span=(0, 30), **first),
        retry(1, RetryResult.OVERWRITTEN, span=(0, 12), **second),
        retry(2, RetryResult.IMPLAUSIBLE, gap=-50.0, similarity=0.475),
    ]
    two = TrajectoryRecord(enabled=enabled, eligible=False, sampled_tokens=20)
    two.attempts += [Attempt(1, (None, "timeout"), (5.0, 0.5))]
    return [record.as_dict() for record in (one, two)]


def test_by_hand():
    expected = {
        "tool_calls/total_attempts": 6,
        "tool_calls/success_rate": (1 / 4 + 1 / 2) / 2,
        "tool_calls/global_success_rate": 2 / 6,
        "tool_calls/first_attempt_success_rate": 0 / 3,
        "tool_calls/failures_per_trajectory": 2 / 2,
        "tool_calls/sampled_failures_per_trajectory": 4 / 2,
        "tool_calls/latency_s/p50": 0.3,
        "tool_calls/latency_s/p95": 5.0,
        "tool_calls/latency_s/p99": 5.0,
        "tool_calls/failure_reason/NameError": 2,
        "tool_calls/failure_reason/TypeError": 1,
        "tool_calls/failure_reason/timeout": 1,
        "rollback/global_triggered": 2,
        "rollback/global_recovered": 1,
        "rollback/global_failed": 1,
        "rollback/global_recovery_rate": 1 / 2,
        "rollback/rollback_full_turn_count": 1,
        "rollback/rollback_tool_call_only_count": 1,
        "rollback/gated_off_share": 1 / 2,
        "rollback/similarity/mean": 0.475,
        "rollback/similarity/from_0.0": 1,
        "rollback/similarity/from_0.2": 0,
        "rollback/similarity/from_0.4": 1,
        "rollback/similarity/from_0.6": 0,
        "rollback/similarity/from_0.8": 1,
        "rollback/retries/1": 1,
        "rollback/retries/2": 1,
        "rollback/result/implausible": 1,
        "rollback/result/overwritten": 2,
        "rollback/gap/mean": -1.0,
        "rollback/gap/p05": -4.0,
        "rollback/gap/p95": 2.0,
        "tokens/generated": 120,
        "tokens/kept": 80,
        "tokens/discarded": 40,
        "tokens/overwritten_share": 12 / 80,
    }
    assert rollback_metrics(records()) == pytest.approx(expected)


def test_without_rollback_there_are_no_rollback_metrics():
    metrics = rollback_metrics(records(enabled=False))
    assert metrics["tool_calls/total_attempts"] == 6
    assert not [key for key in metrics if key.startswith("rollback/")]


def test_nothing_at_all():
    empty = TrajectoryRecord(enabled=True, eligible=True).as_dict()
    assert set(rollback_metrics([empty]).values()) == {0.0}
    assert rollback_metrics([])["tool_calls/success_rate"] == 0.0


def test_similarity_of_one_is_in_the_last_bin():
    record = TrajectoryRecord(enabled=True, eligible=True)
    record.retries.append(retry(1, RetryResult.OVERWRITTEN, similarity=1.0))
    assert rollback_metrics([record.as_dict()])["rollback/similarity/from_0.8"] == 1
