"""Choose the trajectories to show: whole groups, evenly over the steps, and the same ones every time.

Prompts are chosen by a hash of step and prompt, so that runs on the same data show the same prompts.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

MAX_FILES, MAX_BYTES = 200, 4 << 30
"""Most files and bytes that are read of one folder of dumps. Of more, steps are left out."""


def pick_steps(files: Mapping[int, Path]) -> list[int]:
    """The steps to read, evenly chosen; the first and the last are included."""
    steps = sorted(files)
    mean = sum(files[step].stat().st_size for step in steps) / max(1, len(steps))
    limit = max(2, min(MAX_FILES, int(MAX_BYTES / max(1.0, mean))))
    if len(steps) <= limit:
        return steps
    return [steps[round(i * (len(steps) - 1) / (limit - 1))] for i in range(limit)]


def order(split: str, step: int, prompt: str) -> str:
    """The name of a group. Groups are taken in the order of their names."""
    return hashlib.sha256(f"{split}\0{step}\0{prompt}".encode("utf-8", "replace")).hexdigest()


def pick_groups(sizes: Mapping[str, int], limit: int) -> set[str]:
    """sizes: number of trajectories by name (`order`) of the group. Returns at least one group; if several, at most
    `limit` trajectories."""
    picked: set[str] = set()
    total = 0
    for group in sorted(sizes):
        if picked and total + sizes[group] > limit:
            break
        picked.add(group)
        total += sizes[group]
    return picked


def shares(counts: Iterable[int], limit: int) -> list[int]:
    """Divide `limit` evenly over files. counts: trajectories of each. What a small file does not use goes to others."""
    counts = list(counts)
    given = [0] * len(counts)
    left, open_ = limit, [i for i, count in enumerate(counts) if count]
    while left > 0 and open_:
        each = max(1, left // len(open_))
        for i in list(open_):
            more = min(each, counts[i] - given[i], left)
            given[i] += more
            left -= more
            if given[i] == counts[i]:
                open_.remove(i)
    return given
