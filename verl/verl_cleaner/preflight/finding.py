"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    ERROR = "error"
    """The run certainly fails, or silently trains something else than asked for."""
    WARNING = "warning"
    """It may be meant so; the text says what will happen."""


@dataclass(frozen=True, slots=True)
class Finding:
    """text: the key, what was got, what is expected, the fix. check: its name, by which it can be switched off."""

    level: Level
    text: str
    check: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.check}]" if self.check else self.text


def error(text: str) -> Finding:
    return Finding(Level.ERROR, text)


def warning(text: str) -> Finding:
    return Finding(Level.WARNING, text)
