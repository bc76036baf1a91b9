"""How a tool call ended. The status is data: it never comes from the text that user code can print."""

from collections.abc import Iterable
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
class Outcome:
    """`kind` is None where the call succeeded, else a FailureKind or an exception's class name: the model's fault."""

    kind: str | None = None

    @property
    def ok(self) -> bool:
        return self.kind is None


OK = Outcome()


def failures(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """The kinds of the failed calls, in order. A turn fails if any of its calls does."""
    return tuple(outcome.kind for outcome in outcomes if outcome.kind is not None)
