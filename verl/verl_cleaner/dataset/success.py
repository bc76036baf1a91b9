"""How often a model solves each row: one line a row of `….success.jsonl`.

    {"uid": "17", "data_source": "math_dapo", "successes": 3, "attempts": 8, "success_rate": 0.375, "avg_score": 0.375,
     "keep": true}

uid is the row's column uid, or its number in the file. A row is worth keeping where some attempts succeed and some
fail: only there does a group-relative advantage say anything.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUCKETS = 8
"""Success rates are told apart in eighths: 0/8 … 8/8."""

TOLERANCE = 0.001
"""How far a written success rate may be from its eighth."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """avg_score: mean of the rewards, whatever their scale."""

    uid: str
    data_source: str
    successes: int
    attempts: int
    success_rate: float
    avg_score: float
    keep: bool

    @classmethod
    def of(cls, uid: str, data_source: str, accuracies: Sequence[float], scores: Sequence[float]) -> "Statistic":
        """accuracies: 1.0 for a solved attempt, 0.0 for another; one a score."""
        attempts, successes = len(accuracies), sum(accuracy >= 1.0 for accuracy in accuracies)
        rate, score = successes / attempts, sum(scores) / attempts
        return cls(uid, data_source, successes, attempts, rate, score, 0 < successes < attempts)

    @property
    def bucket(self) -> int:
        """Eighths of success, 0 … 8."""
        return round(self.success_rate * BUCKETS)


def read(path: Path) -> dict[str, Statistic]:
    """By uid.

    Raises:
        ValueError: names file and row: not JSON, a key missing or of the wrong type, a uid twice, numbers that
            contradict each other, or a success rate that is no eighth.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected statistics as recipe/cleaner/rollout_stats.sh writes them")
    found: dict[str, Statistic] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                statistic = _parse(line)
                if statistic.uid in found:
                    raise ValueError(f"uid {statistic.uid!r} is there twice")
            except ValueError as error:
                raise ValueError(f"{path}, row {number}: {error}") from error
            found[statistic.uid] = statistic
    if not found:
        raise ValueError(f"{path} has no rows")
    return found


def write(path: Path, statistics: Iterable[Statistic]) -> None:
    """Replaces the file in one go, so that an interrupted run leaves the last complete one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(statistic), ensure_ascii=False) + "\n" for statistic in statistics)
    os.replace(unfinished, path)


def _parse(line: str) -> Statistic:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"must be an object, got {type(values).__name__}")
    statistic = Statistic(
        uid=str(_take(values, "uid", (str, int))),
        data_source=_take(values, "data_source", str),
        successes=_take(values, "successes", int),
        attempts=_take(values, "attempts", int),
        success_rate=float(_take(values, "success_rate", (int, float))),
        avg_score=float(_take(values, "avg_score", (int, float))),
        keep=_take(values, "keep", bool),
    )
    _check(statistic)
    return statistic


def _take(values: dict[str, Any], key: str, kind: Any) -> Any:
    if key not in values:
        raise ValueError(f"the key {key} is missing; found {', '.join(values) or 'none'}")
    value = values[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{key} must be {expected}, got {value!r}")
    return value


def _check(statistic: Statistic) -> None:
    rate = statistic.success_rate
    if not 0 <= statistic.successes <= statistic.attempts or statistic.attempts == 0:
        raise ValueError(f"{statistic.successes} successes in {statistic.attempts} attempts are impossible")
    if not 0 <= rate <= 1 or abs(rate * BUCKETS - statistic.bucket) > TOLERANCE * BUCKETS:
        raise ValueError(
            f"success_rate {rate} is no eighth, expected one of 0, 0.125 … 1; roll out 1, 2, 4 or 8 attempts a row"
        )
    if abs(rate - statistic.successes / statistic.attempts) > TOLERANCE:
        raise ValueError(
            f"success_rate {rate} is not successes / attempts = {statistic.successes}/{statistic.attempts}"
        )
