"""Which sessions a process holds, and how those ended that it held: bookkeeping.

A session's name begins with that of its home, the process that holds it. So whoever has the name can find the home,
and a process knows whether it has ever held a session.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from code_judge.sandbox.session_pool import Family
from code_judge.sessions.states import Head, States
from code_judge.sessions.wire import HOME_LENGTH, NAME_LENGTH, CellResult, SessionError, Trouble, home_of

REMEMBERED = 10_000
"""Sessions that have ended and whose end can be told."""


@dataclass(eq=False, slots=True)
class Shared:
    """What a session and its branches have together. lock: one cell of them runs at a time, in order of arrival."""

    family: Family
    states: States = field(default_factory=States)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(eq=False, slots=True)
class Running:
    """A cell that runs or waits to. callers: how many wait for its result."""

    task: "asyncio.Task[CellResult]"
    callers: int = 0


@dataclass(eq=False, slots=True)
class Session:
    """calls: under way. last: the id and the result of the last cell that had an id; running: those that have one and
    have not ended."""

    id: str
    shared: Shared
    head: Head
    ttl: float
    used: float
    calls: int = 0
    cells: int = 0
    cpu: float = 0.0
    last: tuple[str, CellResult] | None = None
    running: dict[str, Running] = field(default_factory=dict)


class Register:
    """home: name of this process among those that hold sessions."""

    def __init__(self) -> None:
        self.home = secrets.token_hex(HOME_LENGTH // 2)
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, SessionError] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    def __contains__(self, session: Session) -> bool:
        return session.id in self._open

    def add(self, shared: Shared, head: Head, ttl: float) -> Session:
        name = self.home + secrets.token_hex((NAME_LENGTH - HOME_LENGTH) // 2)
        session = self._open[name] = Session(name, shared, head, ttl, time.monotonic())
        return session

    def get(self, name: str) -> Session:
        """It counts as used. Raises SessionError."""
        session = self._open.get(name)
        if session is None:
            raise self._ended.get(name) or self._unknown(name)
        session.used = time.monotonic()
        return session

    def remove(self, session: Session, why: SessionError) -> None:
        """why: for those who ask for it later."""
        del self._open[session.id]
        self._ended[session.id] = why
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def family(self, shared: Shared) -> list[Session]:
        """A session and its branches."""
        return [session for session in self._open.values() if session.shared is shared]

    def _unknown(self, name: str) -> SessionError:
        if home_of(name) in (None, self.home):
            return SessionError(Trouble.UNKNOWN, f"there is no session {name}")
        return SessionError(
            Trouble.LOST,
            f"session {name} was not opened in this process of the service: that one has ended, or there are several; "
            "serve sessions with one process, or with workers over Redis",
        )
