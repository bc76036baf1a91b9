"""The filters of the inspector. The page has the same."""

from collections.abc import Iterator
from dataclasses import dataclass

from verl_cleaner.report.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Selection:
    """None and "" select everything. kind: a failure kind, "any" or "none". right: by accuracy, else by reward > 0."""

    step: int | None = None
    split: str | None = None
    uid: str = ""
    rollout: int | None = None
    right: bool | None = None
    kind: str | None = None
    repaired: bool | None = None
    text: str = ""

    def takes(self, trajectory: Trajectory) -> bool:
        return (
            self.step in (None, trajectory.step)
            and self.split in (None, trajectory.split)
            and self.rollout in (None, trajectory.rollout)
            and self.right in (None, is_right(trajectory))
            and self.repaired in (None, trajectory.repaired)
            and trajectory.uid.startswith(self.uid)
            and self._takes_kinds(trajectory.kinds)
            and (not self.text or any(self.text.lower() in text.lower() for text in _texts(trajectory)))
        )

    def _takes_kinds(self, kinds: list[str]) -> bool:
        if self.kind == "none":
            return not kinds
        return self.kind is None or self.kind in kinds or (self.kind == "any" and bool(kinds))


def is_right(trajectory: Trajectory) -> bool:
    if trajectory.acc is not None:
        return trajectory.acc >= 0.5
    return (trajectory.score or 0.0) > 0


def _texts(trajectory: Trajectory) -> Iterator[str]:
    for block in [*trajectory.prompt, *trajectory.blocks]:
        yield block.text
        yield block.code
    for retry in trajectory.retries:
        yield from (retry["error"], retry["failed_call"], retry["new_call"])
