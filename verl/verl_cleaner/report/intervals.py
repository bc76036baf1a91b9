"""Means with 95 % intervals: over problems, and over a few runs.

The interval of a mean over problems comes from resampling the problems, because an estimate depends most on which
problems the benchmark has. The interval over a few runs is Student's t.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Any

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean over problems, with an interval by the percentile bootstrap. With one problem, low = high = value."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), (0.025, 0.975))
    return Estimate(float(array.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over independent runs, such as seeds. sd, low and high (95 %) are None where there is one run."""

    mean: float
    seeds: int
    sd: float | None
    low: float | None
    high: float | None

    @property
    def holds_zero(self) -> bool | None:
        """None if there is no interval."""
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high


def interval(values: Iterable[float]) -> Interval | None:
    """The mean, with an interval by Student's t. None if there are no values."""
    array = np.asarray(list(values), dtype=float)
    count = len(array)
    if count == 0:
        return None
    mean = float(array.mean())
    if count == 1:
        return Interval(mean, 1, None, None, None)
    sd = float(array.std(ddof=1))
    half = t_quantile(count - 1) * sd / sqrt(count)
    return Interval(mean, count, sd, mean - half, mean + half)


@cache
def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: half the width of a two-sided 95 % interval, in standard errors."""
    from mpmath import betainc, findroot

    def outside(t: float) -> Any:
        return betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) - 0.05

    return float(findroot(outside, (1.9, 13.0), solver="anderson"))


def binomial_error(accuracy: float, tasks: int) -> float:
    """Standard error of an accuracy that was measured with one answer to each task."""
    return sqrt(accuracy * (1 - accuracy) / tasks)
