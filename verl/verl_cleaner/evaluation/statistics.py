"""What n samples a problem say: mean@n, pass@k and maj@k.

All of them are means over problems, so that resampling problems gives the interval (`report.intervals.estimate`).
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import comb

_SUBSETS = 200
"""Of the samples that maj@k looks at."""


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
