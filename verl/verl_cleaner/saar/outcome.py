"""How a tool call ended and whose fault it is. The status is data: user code cannot print it."""

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """Kinds that are not the class name of a Python exception."""

    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    NONZERO_EXIT = "nonzero_exit"
    MALFORMED_CALL = "malformed_call"
    UNKNOWN_TOOL = "unknown_tool"
    TOOL_ERROR = "tool_error"


class InfrastructureError(Exception):
    """We failed, not the model: judge unreachable, queue timeout, internal error, after all retries.

    Ends the trajectory. Never shown to the model, never rolled back, never trained on.
    """


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """How one call ended: `ToolOutcome()` is a success; `fault` and `outage` make the others.

    kind: of a fault of the model's, which reads the response, and whose call SAAR may repair: a FailureKind, an
        exception's class name or a word of the tool's own. None otherwise.
    reason: of an outage, which the model never reads; the trajectory is lost and counted. What the run's log says. None
        otherwise.
    """

    kind: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.reason is not None:
            raise ValueError(f"an outcome is a fault or an outage, got kind={self.kind!r} and reason={self.reason!r}")
        if self.kind == "":
            raise ValueError("a fault's kind must not be empty; use tool_error where there is no better word")

    @classmethod
    def fault(cls, kind: str = FailureKind.TOOL_ERROR) -> "ToolOutcome":
        return cls(kind=kind)

    @classmethod
    def outage(cls, reason: str) -> "ToolOutcome":
        return cls(reason=reason)

    @property
    def ok(self) -> bool:
        return self.kind is None and self.reason is None


OK = ToolOutcome()
