"""What travels over HTTP for sessions. docs/judge-sessions.md is the guide."""

import re
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field

from code_judge.wire import RunResult

NAME_LENGTH, HOME_LENGTH = 32, 12
"""Of a session's name, in hexadecimal digits, and of the name of its home, with which it begins."""
_NAME = re.compile(f"[0-9a-f]{{{NAME_LENGTH}}}")


def home_of(name: str) -> str | None:
    """The process that holds or held the session of this name; None for what no process gives as a name."""
    return name[:HOME_LENGTH] if _NAME.fullmatch(name) else None


class Commit(StrEnum):
    """When a cell's effects are kept."""

    SUCCESS = "success"
    ALWAYS = "always"
    NEVER = "never"


class OpenSession(BaseModel, extra="forbid"):
    """warm: the packages that are imported already. ttl: seconds without a call after which the session ends; the
    server's SESSION_TTL is the default and the most."""

    warm: Literal["bare", "numpy", "sympy"] = "bare"
    ttl: float | None = Field(default=None, gt=0)


class RunCell(BaseModel, extra="forbid"):
    """echo: print the value of a last expression. cut_middle: as in Options. run_id: chosen by the client; the same id
    again returns the same result, so that a call whose reply was lost can be repeated."""

    code: str
    commit: Commit = Commit.SUCCESS
    echo: bool = True
    cut_middle: bool = False
    run_id: str | None = Field(default=None, max_length=100)


class CellResult(RunResult):
    """As RunResult; sub_id is the run_id. cell: number of the cell in its session, from 1. committed: its effects are
    there for the next cell. cpu: seconds."""

    cell: int
    committed: bool
    cpu: float


class TakeSnapshot(BaseModel, extra="forbid"):
    """replace: give up the earlier snapshots."""

    replace: bool = False


class GoTo(BaseModel, extra="forbid"):
    """snapshot: None for the latest."""

    snapshot: str | None = None


class SessionInfo(BaseModel):
    """cells: run so far. cpu: seconds that they used. expires_in: seconds. snapshots: oldest first."""

    session: str
    cells: int
    cpu: float
    expires_in: float
    snapshots: list[str]


class Places(NamedTuple):
    """open: sessions. most: that may be open. Of a whole service."""

    open: int
    most: int


class Trouble(StrEnum):
    """Why a call on a session came to nothing."""

    UNKNOWN = "unknown_session"
    EXPIRED = "session_expired"
    LOST = "session_lost"
    ENDED = "session_ended"
    UNKNOWN_SNAPSHOT = "unknown_snapshot"
    TOO_MANY = "too_many_sessions"
    NOT_OPENED = "not_opened"
    QUEUE_TIMEOUT = "queue_timeout"
    UNAVAILABLE = "sessions_unavailable"
    INTERNAL_ERROR = "internal_error"

    @classmethod
    def _missing_(cls, value: object) -> "Trouble":
        """What another version of the service calls something that this one does not know."""
        return cls.INTERNAL_ERROR


_STATUS = {
    Trouble.UNKNOWN: 404,
    Trouble.EXPIRED: 410,
    Trouble.LOST: 410,
    Trouble.ENDED: 410,
    Trouble.UNKNOWN_SNAPSHOT: 404,
    Trouble.TOO_MANY: 429,
    Trouble.NOT_OPENED: 503,
    Trouble.QUEUE_TIMEOUT: 503,
    Trouble.UNAVAILABLE: 501,
    Trouble.INTERNAL_ERROR: 503,
}
_RETRIABLE = (Trouble.TOO_MANY, Trouble.NOT_OPENED, Trouble.QUEUE_TIMEOUT, Trouble.INTERNAL_ERROR)


class SessionError(Exception):
    """A call that was not carried out. Its reply is {"detail": {"error", "message", "retriable", "infrastructure"}}.

    retriable: the same call may succeed later. infrastructure: no cell is to blame.
    """

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.status = _STATUS[trouble]
        self.retriable = trouble in _RETRIABLE
        self.infrastructure = trouble is not Trouble.ENDED

    @property
    def detail(self) -> dict[str, object]:
        return {
            "error": self.trouble,
            "message": str(self),
            "retriable": self.retriable,
            "infrastructure": self.infrastructure,
        }
