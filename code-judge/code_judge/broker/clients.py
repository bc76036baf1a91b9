"""What waits in one process, by client: clients take turns, and each is known by how much it has."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Each client's own in the order in which they came, the clients by turns. A client is known while it has any."""

    def __init__(self) -> None:
        # The client whose turn it is comes first.
        self._waiting: dict[str, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[T]:
        return (one for own in self._waiting.values() for one in own)

    def add(self, client: str, more: Iterable[T]) -> None:
        """At least one."""
        own = self._waiting.get(client)
        if own is None:
            own = self._waiting[client] = deque()
        own.extend(more)

    def pop(self) -> T:
        client = next(iter(self._waiting))
        own = self._waiting.pop(client)
        one = own.popleft()
        if own:
            self._waiting[client] = own
        return one

    def of(self, client: str) -> Iterable[T]:
        return self._waiting.get(client, ())


class Counts:
    """Programs that wait or run."""

    def __init__(self) -> None:
        self.total = 0
        self._own: defaultdict[str, int] = defaultdict(int)

    def add(self, client: str, number: int) -> None:
        """number: negative for those that have ended."""
        self.total += number
        self._own[client] += number
        if not self._own[client]:
            del self._own[client]

    def of(self, client: str) -> int:
        return self._own.get(client, 0)
