"""Did the policy get better, or did the repairs? Tables of first and last values, and of differences between runs.

Held-out values and first attempts show the policy alone. Values of training after repairs do not: the trajectories of a
run can have no failed calls while the policy alone still makes as many as before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from verl_cleaner.records.metrics import held_out_accuracy, second_validation
from verl_cleaner.report.charts import round_, with_rollback
from verl_cleaner.report.intervals import t_quantile
from verl_cleaner.report.panels import Metrics
from verl_cleaner.report.run import Run

Read = Callable[[Metrics], float | None]


@dataclass(frozen=True, slots=True)
class Value:
    """better: 1 if a larger value is better, -1 if a smaller one is."""

    title: str
    unit: str
    read: Read
    better: int


def _key(name: str) -> Read:
    return lambda metrics: metrics.get(name)


def _helped(metrics: Metrics) -> float | None:
    """Accuracy with rollback: of a validation that rolls back, or of one that was repeated with rollback."""
    return held_out_accuracy(metrics if with_rollback(metrics) else second_validation(metrics))


POLICY, TRAINING, REPAIRS, COST = (
    "The policy alone, held out",
    "Training, as sampled",
    "Training, after repairs",
    "Cost",
)
VALUES: dict[str, tuple[Value, ...]] = {
    POLICY: (
        Value("accuracy", "%", lambda metrics: None if with_rollback(metrics) else held_out_accuracy(metrics), 1),
        Value("first attempts that succeed", "%", _key("val-aux/tool_calls/first_attempt_success_rate"), 1),
        Value("tool failures a trajectory", "", _key("val-aux/tool_calls/sampled_failures_per_trajectory"), -1),
    ),
    "Held out, with rollback at test time": (Value("accuracy", "%", _helped, 1),),
    TRAINING: (
        Value("first attempts that succeed", "%", _key("tool_calls/first_attempt_success_rate"), 1),
        Value("tool failures a trajectory", "", _key("tool_calls/sampled_failures_per_trajectory"), -1),
    ),
    REPAIRS: (
        Value("accuracy", "%", _key("critic/score/acc"), 1),
        Value("tool failures a trajectory", "", _key("tool_calls/failures_per_trajectory"), -1),
        Value("failed turns that are repaired", "%", _key("rollback/global_recovery_rate"), 1),
    ),
    COST: (
        Value("seconds a step", "s", _key("timing_s/step"), -1),
        Value("tokens sampled a step, retries included", "", _key("tokens/generated"), -1),
    ),
}


def summary(groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """Rows by section. A cell is [first, last] of a group's mean, None if nothing was logged.

    first, last: means over the first and the last tenth of the logged values, because one step of a training is noisy.
    """
    sections = []
    for title, values in VALUES.items():
        rows = [(value, [_ends(runs, value.read) for runs in groups]) for value in values]
        shown = [[v.title, v.unit, v.better, cells] for v, cells in rows if any(cells)]
        if shown:
            sections.append([title, shown])
    return {"sections": sections}


def _ends(runs: Sequence[Run], read: Read) -> list[float | None] | None:
    ends = [_tenths(values) for run in runs if (values := _values(run, read))]
    return [round_(sum(part) / len(part)) for part in zip(*ends, strict=True)] if ends else None


def _tenths(values: Sequence[float]) -> tuple[float, float]:
    """Means over the first and the last tenth of the values. A tenth is rounded up."""
    count = -(-len(values) // 10)
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _values(run: Run, read: Read, until: int | None = None) -> list[float]:
    steps = (metrics for step, metrics in run.steps.items() if until is None or step <= until)
    return [value for metrics in steps if (value := read(metrics)) is not None]


def differences(groups: Sequence[Sequence[Run]]) -> dict[str, Any] | None:
    """Each group against each other, over the last tenth of the steps that all runs reached. None for a single group.

    A cell is [mean, seeds]; a difference [difference, low, high], the interval Welch's at 95 %, null with one seed.
    """
    runs = [run for group in groups for run in group if run.steps]
    if len(groups) < 2 or not runs:
        return None
    step = min(max(run.steps) for run in runs)
    rows = []
    for section, values in VALUES.items():
        for value in values:
            ends = [
                [_tenths(found)[1] for run in group if (found := _values(run, value.read, step))] for group in groups
            ]
            if sum(map(bool, ends)) < 2:
                continue
            cells = [[round_(sum(end) / len(end)), len(end)] if end else None for end in ends]
            against = [[_difference(end, base) if end and base else None for end in ends] for base in ends]
            rows.append([section, value.title, value.unit, value.better, cells, against])
    return {"step": step, "rows": rows} if rows else None


def _difference(values: Sequence[float], base: Sequence[float]) -> list[float | None]:
    (mean, error, freedom), (other, other_error, other_freedom) = _moments(values), _moments(base)
    difference = mean - other
    if error is None or other_error is None:
        return [_whole(difference, max(abs(mean), abs(other))), None, None]
    total = error + other_error
    half = 0.0
    if total:
        degrees = total**2 / (error**2 / freedom + other_error**2 / other_freedom)
        half = t_quantile(max(1, int(degrees))) * sqrt(total)
    return [_whole(bound, max(abs(mean), abs(other))) for bound in (difference, difference - half, difference + half)]


def _whole(value: float, size: float) -> float | None:
    """Rounding errors become 0: with equal seeds they would look like a certain difference."""
    return 0.0 if abs(value) <= 1e-9 * size else round_(value)


def _moments(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, squared standard error and its degrees of freedom."""
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return mean, None, 0
    return mean, sum((value - mean) ** 2 for value in values) / (count - 1) / count, count - 1
