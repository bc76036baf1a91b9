"""Estimates with 95 % intervals: of n samples a problem (mean@n, pass@k, maj@k), and of a few runs.

What n samples a problem say are means over problems, so resampling problems gives the interval: an estimate depends
most on which problems a benchmark happens to hold. Runs are few, and their interval is Student's t.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb, sqrt
from typing import Any

import numpy as np

RESAMPLES = 2000
_SUBSETS = 200
"""Of the samples that maj@k looks at."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean over problems and its interval by the percentile bootstrap; of one problem, the point alone."""
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
        """None where there is no interval."""
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high


def interval(values: Iterable[float]) -> Interval | None:
    """Mean with its interval by Student's t; None of no values."""
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
    """Standard error of one evaluation: what sampling answers to that many tasks once leaves open."""
    return sqrt(accuracy * (1 - accuracy) / tasks)


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Unbiased estimate that one of k samples is right (Chen et al. 2021, equation 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k must be in [1, {samples}], the number of samples, got {k}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, *, seed: object = 0) -> float:
    """Expected accuracy of the most frequent answer among k samples.

    Answers are equal as texts; a sample without an answer does not vote. Of answers that are equally frequent each wins
    with the same chance. Exact where the subsets of k are few, else the mean over random ones.
    """
    samples = range(len(answers))
    chosen: Iterable[Sequence[int]]
    if comb(len(answers), k) <= _SUBSETS:
        chosen = combinations(samples, k)
    else:
        rng = random.Random(f"{seed} {k}")
        chosen = (rng.sample(samples, k) for _ in range(_SUBSETS))
    votes = [_vote(answers, right, subset) for subset in chosen]
    return sum(votes) / len(votes)


def _vote(answers: Sequence[str | None], right: Sequence[bool], chosen: Sequence[int]) -> float:
    counts = Counter(answers[i] for i in chosen if answers[i])
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [answer for answer, count in counts.items() if count == most]
    is_right: Mapping[str | None, bool] = {answers[i]: right[i] for i in chosen}
    return sum(is_right[answer] for answer in winners) / len(winners)


def between(at_k: Callable[[int], Sequence[float]], k: float) -> list[float]:
    """Values by problem at a number of samples that is not whole: one more of them with the probability of the rest."""
    low = int(k)
    rest = k - low
    if rest == 0:
        return list(at_k(low))
    return [(1 - rest) * one + rest * other for one, other in zip(at_k(low), at_k(low + 1), strict=True)]


def powers(samples: int) -> list[int]:
    """1, 2, 4 … and the number of samples itself."""
    ks = [1 << i for i in range(samples.bit_length()) if 1 << i < samples]
    return [*ks, samples]
