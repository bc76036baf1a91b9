"""Group runs that differ only in the seed. The page shows a group as a mean with a band."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from verl_cleaner.report.run import Run

_OWN = re.compile(r"seed|_dir$|experiment_name|command|_path$|_file|port$|address|log_freq", re.IGNORECASE)
"""Keys that may differ between the runs of a group."""
_SAME = re.compile(r"model\.path$|tool_config_path|custom_reward_function\.path", re.IGNORECASE)
"""Keys that match `_OWN`, but belong to the setting, which is equal in a group."""
_SEED_NAME = re.compile(r"[-_ ]?seed[-_ ]?\d+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Group:
    """numbers: the indices of its runs."""

    name: str
    numbers: tuple[int, ...]


def groups(runs: Sequence[Run]) -> list[Group]:
    """The groups, in the order of their first runs. Runs without a configuration are grouped by folder names."""
    found: dict[object, list[int]] = {}
    for number, run in enumerate(runs):
        found.setdefault(_setting(run), []).append(number)
    names = _names([[runs[number] for number in numbers] for numbers in found.values()])
    return [Group(name, tuple(numbers)) for name, numbers in zip(names, found.values(), strict=True)]


def _setting(run: Run) -> object:
    if run.config:
        return frozenset((key, value) for key, value in run.config.items() if _SAME.search(key) or not _OWN.search(key))
    return _without_seed(run)


def _without_seed(run: Run) -> str:
    path = PurePath(run.name)
    parts = [part for part in (_SEED_NAME.sub("", part) for part in path.parts) if part]
    return "/".join(parts) or run.name


def _names(members: Sequence[Sequence[Run]]) -> list[str]:
    """Names of the groups; a group of one run has the run's name."""
    names = [_without_seed(runs[0]) if len(runs) > 1 else runs[0].name for runs in members]
    if len(set(names)) < len(names):
        names = [runs[0].name for runs in members]
    return [f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name for name, runs in zip(names, members, strict=True)]
