"""A failed call beside its repair: both continue the same tokens, and only one of them ran.

prefix    all tokens up to the call, the turn's own reasoning included
repaired  the call that took the failed one's place and ran
failed    the call of the last state that failed

A repair that brought reasoning of its own along continues another prefix and makes no pair.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from verl_cleaner.saar.gate import derive_seed
from verl_cleaner.saar.segment import Turn


@dataclass(frozen=True, slots=True)
class Pair:
    """The repaired call is response[start:end]; `failed` are the ids that stood there before."""

    start: int
    end: int
    failed: tuple[int, ...]

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.end, (self.start, self.end)
        assert self.failed, "a failed call has tokens"


def make_pair(failed: Turn, repaired: Turn, *, start: int) -> Pair | None:
    """start: the turn's first token in the response. None where prefixes differ, or the same call was made again."""
    if failed.boundary is None or repaired.boundary is None or failed.reasoning.ids != repaired.reasoning.ids:
        return None
    if failed.tool_call.ids == repaired.tool_call.ids:
        return None
    return Pair(start + repaired.boundary, start + len(repaired), failed.tool_call.ids)


def share_out(available: Mapping[str, int], *, limit: int, seed: Sequence[object]) -> dict[str, int]:
    """How many of its pairs, the first ones, each trajectory may train on: at most `limit` a group.

    The same seed shares out alike, whatever the groups are called and in whatever order they come. Second pairs of a
    trajectory wait until every trajectory of the group has had its first.

    Args:
        available: pairs by VeRL's key of the trajectory, `{group}_{rollout}_{output}`.
    """
    groups: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for key, count in available.items():
        group, rollout, _ = key.rsplit("_", 2)
        draw = derive_seed("pairs", *seed, rollout)
        groups[group] += [(number, draw, key) for number in range(count)]
    granted = dict.fromkeys(available, 0)
    for candidates in groups.values():
        for _, _, key in sorted(candidates)[:limit]:
            granted[key] += 1
    return granted
