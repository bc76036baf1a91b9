"""What a check has found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    ERROR = "error"
    """The run certainly fails, or silently trains something else than the configuration asks for."""
    WARNING = "warning"
    """The user may want this; the text says what will happen."""


@dataclass(frozen=True, slots=True)
class Finding:
    """text: the key, the value, what is expected, the fix. check: the name of the check, to switch it off."""

    level: Level
    text: str
    check: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.check}]" if self.check else self.text


def error(text: str) -> Finding:
    return Finding(Level.ERROR, text)


def warning(text: str) -> Finding:
    return Finding(Level.WARNING, text)


def refusal(prefix: str, read: Callable[..., object], *args: object) -> Iterator[Finding]:
    """An error with the message of the ValueError that `read` raises, if it does."""
    try:
        read(*args)
    except ValueError as problem:
        yield error(f"{prefix}{problem}")
