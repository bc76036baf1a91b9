"""What an API process knows of the calls that it has handed to homes of sessions, and of the homes."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from code_judge.broker.redis_keys import ENDED
from code_judge.sessions.wire import SessionError, Trouble

LEAVE = "leave"
"""The action of a call that takes back another one, whose id is its body. It has no answer."""
GRACE_SECONDS = 1.5
"""A home may be missing for so long: where Redis has lost its data, live ones give another sign of life soon."""
REMEMBERED = 1000
"""Homes that are missing."""


@dataclass(eq=False, slots=True)
class Sent:
    """values: redis_scripts.py. home: of the session, once it is known. entry: in the stream of calls, once it is
    written. missed: looks in a row that did not find it there."""

    id: str
    name: str
    values: tuple[str | bytes, ...]
    since: float
    answer: "asyncio.Future[bytes]"
    home: str = ""
    entry: bytes | None = None
    missed: int = 0

    def fail(self, trouble: Trouble, message: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(SessionError(trouble, message))

    def lose(self, why: str) -> None:
        self.fail(Trouble.LOST, f"session {self.name} is lost: {why}" if self.name else why)


@dataclass(slots=True)
class Missing:
    """Those that are missing, and since when."""

    since: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def gone(self, home: str, state: bytes | None, now: float) -> str | None:
        """Why the sessions of a home in this state are lost, if they are."""
        if state == ENDED.encode():
            return "the worker that held it was shut down"
        if state:
            self.since.pop(home, None)
            return None
        while len(self.since) > REMEMBERED:
            self.since.popitem(last=False)
        if now - self.since.setdefault(home, now) < GRACE_SECONDS:
            return None
        return "the worker that held it is gone"
