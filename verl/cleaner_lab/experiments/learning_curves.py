"""What a grid of runs says about its methods: curves, final accuracy, paired differences, and when a level is reached.

A frame has one row an observation: method, seed, step, metric, value. Runs of one seed start alike and see the same
tasks, so methods are compared by their differences within a seed. Seeds are few: intervals are Student's t over seeds.
A level that a run never reaches is infinitely far away; medians over seeds keep such a run, and nothing drops it.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import pandas as pd

COLUMNS = ("method", "seed", "step", "metric", "value")
METADATA = b"cleaner"
"""Key of the parquet file's metadata that says what the grid was, in JSON."""

BASELINE = "baseline"
ACCURACY = "held_out/accuracy"
LAST = 3
"""Validations whose mean is the final accuracy: less noisy than the last one alone."""

Run = tuple[str, int]
"""Method and seed."""
Curve: TypeAlias = pd.Series
"""Of one run: values over the steps, tokens or seconds spent, in order."""


class ResultsError(Exception):
    """Results that cannot be read or compared; the message says what to do."""


class Axis(StrEnum):
    """What a run has spent: updates, generated tokens (discarded ones included), or wall time without validation."""

    STEPS = "steps"
    TOKENS = "tokens"
    SECONDS = "seconds"


_COST = {Axis.TOKENS: "train/tokens_generated", Axis.SECONDS: "train/seconds"}


def methods_of(frame: pd.DataFrame) -> list[str]:
    """The baseline first, the others in the order of their first rows."""
    return sorted(dict.fromkeys(frame["method"]), key=lambda method: method != BASELINE)


def runs_of(frame: pd.DataFrame) -> list[Run]:
    return [
        (str(method), int(seed)) for method, seed in dict.fromkeys(zip(frame["method"], frame["seed"], strict=True))
    ]


def curves(frame: pd.DataFrame, metric: str = ACCURACY, axis: Axis = Axis.STEPS) -> dict[Run, Curve]:
    """A curve for every run that has the metric. Raises ResultsError where a run lacks what the axis needs."""
    found = _series(frame, metric)
    if axis is Axis.STEPS:
        return found
    spent = _series(frame, _COST[axis])
    return {run: _over(curve, spent.get(run), run, _COST[axis]) for run, curve in found.items()}


def _series(frame: pd.DataFrame, metric: str) -> dict[Run, Curve]:
    rows = frame[frame["metric"] == metric].sort_values("step")
    groups = rows.groupby(["method", "seed"], sort=False)
    return {(str(key[0]), int(key[1])): group.set_index("step")["value"] for key, group in groups}


def _over(curve: Curve, spent: Curve | None, run: Run, cost: str) -> Curve:
    """The same values over the cost summed up to each of their steps."""
    last = int(curve.index[-1])
    have = set() if spent is None else set(spent.index)
    if missing := set(range(1, last + 1)) - have:
        raise ResultsError(
            f"{run[0]}, seed {run[1]} lacks {cost} at step {min(missing)} and validates at step {last}; "
            "expected a value at every training step"
        )
    total = np.concatenate([[0.0], np.cumsum(spent.loc[1:last])]) if spent is not None else np.zeros(1)
    return pd.Series(curve.to_numpy(), index=total[curve.index.to_numpy()])


def of_method(found: Mapping[Run, Curve], method: str) -> dict[int, Curve]:
    """By seed, in order."""
    return {seed: found[name, seed] for name, seed in sorted(found) if name == method}


def mean_curve(runs: Sequence[Curve]) -> Curve:
    """Mean over the runs where all of them are, linear between their points; a mean of fewer runs would jump."""
    points = np.unique(np.concatenate([run.index.to_numpy(dtype=float) for run in runs]))
    first, last = max(run.index[0] for run in runs), min(run.index[-1] for run in runs)
    points = points[(points >= first) & (points <= last)]
    return pd.Series(np.mean([np.interp(points, run.index, run) for run in runs], axis=0), index=points)


def smooth(curve: Curve, window: int = 5) -> Curve:
    """Centred moving mean over that many steps; fewer at the ends."""
    return curve.rolling(window, center=True, min_periods=1).mean()


def final(curve: Curve) -> float | None:
    """Mean of the last LAST validations of a curve over steps, the one before training left out; None without any."""
    trained = curve[curve.index > 0]
    return float(trained.iloc[-LAST:].mean()) if len(trained) else None


def finals(runs: Mapping[int, Curve]) -> dict[int, float]:
    """By seed, where there is a final accuracy."""
    return {seed: value for seed, curve in runs.items() if (value := final(curve)) is not None}


def final_differences(runs: Mapping[int, Curve], others: Mapping[int, Curve]) -> dict[int, float]:
    """Final accuracy of runs − others by seed that both have, each pair up to the last step that both validated."""
    found = {}
    for seed in runs.keys() & others.keys():
        steps = runs[seed].index.intersection(others[seed].index)
        one, other = final(runs[seed].loc[steps]), final(others[seed].loc[steps])
        if one is not None and other is not None:
            found[seed] = one - other
    return dict(sorted(found.items()))


def differences(values: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    """values − others by seed that both have."""
    return {seed: values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())}


def common_budget(found: Mapping[Run, Curve]) -> tuple[float, Run]:
    """The most that all runs have spent, and the run that spent no more."""
    run = min(found, key=lambda run: (found[run].index[-1], run))
    return float(found[run].index[-1]), run


def at(curve: Curve, budget: float) -> float:
    """Linear between validations."""
    assert curve.index[0] <= budget <= curve.index[-1], "a run says nothing of a budget it did not spend"
    return float(np.interp(budget, curve.index, curve))


def area(curve: Curve, budget: float) -> float:
    """Area under the curve up to the budget, divided by it: the mean on the way there; at no budget, the start."""
    start = float(curve.index[0])
    if budget <= start:
        return at(curve, budget)
    inside = curve[curve.index < budget]
    x, y = [*inside.index, budget], [*inside, at(curve, budget)]
    return float(np.trapezoid(y, x)) / (budget - start)


def first_reach(curve: Curve, level: float) -> float:
    """Where the curve is first at the level or above, linear between validations; infinity where it never is."""
    x, y = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    above = np.flatnonzero(y >= level)
    if len(above) == 0:
        return math.inf
    i = int(above[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1]))
