"""A turn = reasoning segment + tool-call segment, split at the first token of the first tool call."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant generation.

    ids: token ids as sampled. logprobs: one a token, or None where the rollout keeps none.
    boundary: index of the first token of the tool-call segment, None where the turn has none.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    boundary: int | None = None

    def __post_init__(self) -> None:
        assert self.logprobs is None or len(self.logprobs) == len(self.ids), (len(self.ids), len(self.logprobs))
        assert self.boundary is None or 0 <= self.boundary < len(self.ids), (self.boundary, len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def reasoning(self) -> "Turn":
        return self._part(slice(0, self.boundary))

    @property
    def tool_call(self) -> "Turn":
        assert self.boundary is not None
        return self._part(slice(self.boundary, None))

    def __add__(self, other: "Turn") -> "Turn":
        logprobs = None
        if self.logprobs is not None and other.logprobs is not None:
            logprobs = self.logprobs + other.logprobs
        return Turn(self.ids + other.ids, logprobs)

    def _part(self, part: slice) -> "Turn":
        return Turn(self.ids[part], None if self.logprobs is None else self.logprobs[part])


def find_boundary(texts: Sequence[str], position: int) -> int:
    """Index of the token that holds the character at `position` of the turn's text. texts: of its tokens."""
    return next(i for i, end in enumerate(accumulate(map(len, texts))) if end > position)
