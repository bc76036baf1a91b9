"""Which states of a session are still needed: pure bookkeeping.

A session stands at one state, and each of its snapshots holds one. A branch is another session of the same family. A
state that nobody stands at or holds any longer can go.
"""

from collections import Counter
from dataclasses import dataclass, field


class States:
    """Of one family, with how many hold each. State 0 is there from the start."""

    def __init__(self) -> None:
        self._held: Counter[int] = Counter()
        self._next = 1

    def new(self) -> int:
        """A number for a state that is to be made."""
        self._next += 1
        return self._next - 1

    def hold(self, state: int) -> None:
        self._held[state] += 1

    def release(self, state: int) -> list[int]:
        """Returns the state if nobody holds it any longer."""
        self._held[state] -= 1
        if self._held[state]:
            return []
        del self._held[state]
        return [state]

    def held_once(self, state: int) -> bool:
        return self._held[state] == 1

    def __len__(self) -> int:
        return len(self._held)


@dataclass(slots=True)
class Head:
    """Where a session stands. snapshots: state by name, the latest last."""

    states: States
    state: int
    snapshots: dict[str, int] = field(default_factory=dict)
    _names: int = 0

    def __post_init__(self) -> None:
        self.states.hold(self.state)

    def snapshot(self) -> str:
        self._names += 1
        name = f"s{self._names}"
        self.snapshots[name] = self.state
        self.states.hold(self.state)
        return name

    def find(self, name: str | None) -> str:
        """The snapshot of that name, or the latest. Raises KeyError."""
        if name is None:
            name = next(reversed(self.snapshots), "")
        if name not in self.snapshots:
            raise KeyError(name)
        return name

    def move(self, state: int) -> list[int]:
        """Stand at another state. Returns states that can go."""
        self.states.hold(state)
        gone = self.states.release(self.state)
        self.state = state
        return gone

    def rollback(self, name: str) -> list[int]:
        """Go back to a snapshot; those that are later go, it stays. Returns states that can go."""
        gone = self.move(self.snapshots[name])
        names = list(self.snapshots)
        for later in names[names.index(name) + 1 :]:
            gone += self.states.release(self.snapshots.pop(later))
        return gone

    def forget(self, name: str | None) -> list[int]:
        """Give up a snapshot, or all of them. Returns states that can go."""
        gone = []
        for one in [name] if name is not None else list(self.snapshots):
            gone += self.states.release(self.snapshots.pop(one))
        return gone

    def end(self) -> list[int]:
        """Returns states that can go."""
        return [*self.forget(None), *self.states.release(self.state)]
