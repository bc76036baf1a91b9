"""The metrics of a batch of trajectories, from their records."""

from collections import Counter
from collections.abc import Sequence
from math import ceil

from verl_cleaner.saar.record import Record


def rollback_metrics(records: Sequence[Record]) -> dict[str, float]:
    """Metrics of a batch of trajectories; all keys of a section are there whenever the section applies."""
    attempts = [attempt for record in records for attempt in record["attempts"]]
    return _tool_metrics(records, attempts) | _rollback_metrics(records) | _token_metrics(records)


def _tool_metrics(records: Sequence[Record], attempts: Sequence[Record]) -> dict[str, float]:
    kinds = [kind for attempt in attempts for kind in attempt["kinds"]]
    rates = [rate for record in records if (rate := _success_rate(record["attempts"])) is not None]
    first, last = _first_and_last(records)
    remaining = sum(kind is not None for attempt in last for kind in attempt["kinds"])
    seconds = sorted(second for attempt in attempts for second in attempt["seconds"])
    metrics = {
        "tool_calls/total_attempts": float(len(kinds)),
        "tool_calls/success_rate": _mean(rates),
        "tool_calls/global_success_rate": _share(kinds.count(None), len(kinds)),
        "tool_calls/first_attempt_success_rate": _share(sum(not any(a["kinds"]) for a in first), len(first)),
        "tool_calls/failures_per_trajectory": _share(remaining, len(records)),
        "tool_calls/sampled_failures_per_trajectory": _share(len(kinds) - kinds.count(None), len(records)),
    }
    for percent in (50, 95, 99) if seconds else ():
        metrics[f"tool_calls/latency_s/p{percent}"] = _percentile(seconds, percent)
    for kind, count in sorted(Counter(kind for kind in kinds if kind is not None).items()):
        metrics[f"tool_calls/failure_reason/{kind}"] = float(count)
    return metrics


def _rollback_metrics(records: Sequence[Record]) -> dict[str, float]:
    enabled = [record for record in records if record["enabled"]]
    if not enabled:
        return {}
    retries = [retry for record in enabled for retry in record["retries"]]
    recovered = sum(record["recovered"] for record in enabled)
    failed = sum(record["failed"] for record in enabled)
    strategies = Counter(retry["strategy"] for retry in retries)
    ratios = [retry["similarity"] for retry in retries if retry["similarity"] is not None]
    metrics = {
        "rollback/global_triggered": float(recovered + failed),
        "rollback/global_recovered": float(recovered),
        "rollback/global_failed": float(failed),
        "rollback/global_recovery_rate": _share(recovered, recovered + failed),
        "rollback/rollback_full_turn_count": float(strategies["full_turn"]),
        "rollback/rollback_tool_call_only_count": float(strategies["tool_call_only"]),
        "rollback/gated_off_share": _share(sum(not record["eligible"] for record in enabled), len(enabled)),
        "rollback/similarity/mean": _mean(ratios),
    }
    metrics |= _gap_metrics([retry["gap"] for retry in retries if retry["span"] and retry["gap"] is not None])
    for low in range(0, 10, 2):
        count = sum(low <= min(ratio * 10, 9.99) < low + 2 for ratio in ratios)
        metrics[f"rollback/similarity/from_0.{low}"] = float(count)
    turns = Counter((i, retry["turn"]) for i, record in enumerate(enabled) for retry in record["retries"])
    for number, count in sorted(Counter(turns.values()).items()):
        metrics[f"rollback/retries/{number}"] = float(count)
    for result, count in sorted(Counter(retry["result"] for retry in retries).items()):
        metrics[f"rollback/result/{result}"] = float(count)
    return metrics


def _gap_metrics(gaps: list[float]) -> dict[str, float]:
    """The purification gap of the overwritten spans, in nats; only where the rollout engine scored them."""
    if not gaps:
        return {}
    gaps.sort()
    percentiles = {f"rollback/gap/p{percent:02}": _percentile(gaps, percent) for percent in (5, 95)}
    return {"rollback/gap/mean": _mean(gaps)} | percentiles


def _token_metrics(records: Sequence[Record]) -> dict[str, float]:
    sampled = sum(record["sampled_tokens"] for record in records)
    discarded = sum(retry["discarded"] for record in records for retry in record["retries"])
    kept = sampled - discarded
    spans = {
        (i, retry["turn"]): retry["span"]
        for i, record in enumerate(records)
        for retry in record["retries"]
        if retry["span"] is not None
    }
    overwritten = sum(end - start for start, end in spans.values())
    return {
        "tokens/generated": float(sampled),
        "tokens/kept": float(kept),
        "tokens/discarded": float(discarded),
        "tokens/overwritten_share": _share(overwritten, kept),
    }


def _first_and_last(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The first and the last attempt of every turn that called a tool."""
    first: dict[tuple[int, int], Record] = {}
    last: dict[tuple[int, int], Record] = {}
    for i, record in enumerate(records):
        for attempt in record["attempts"]:
            first.setdefault((i, attempt["turn"]), attempt)
            last[i, attempt["turn"]] = attempt
    return list(first.values()), list(last.values())


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[ceil(len(ordered) * percent / 100) - 1]


def _success_rate(attempts: Sequence[Record]) -> float | None:
    kinds = [kind for attempt in attempts for kind in attempt["kinds"]]
    return kinds.count(None) / len(kinds) if kinds else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
