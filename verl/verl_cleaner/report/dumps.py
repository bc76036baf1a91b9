"""Read files that may be broken or half written. A warning says what is missing."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from verl_cleaner.records import rollbacks as rollback_dump
from verl_cleaner.records import trajectories as trajectory_dump

Row = TypeVar("Row")


class Warnings:
    """Texts that the reader of the report should know. Each is kept once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)


def objects(path: Path, warnings: Warnings, *, needs: str) -> Iterator[dict[str, Any]]:
    """The objects of `numbered`, without line numbers."""
    return (row for _, row in numbered(path, warnings, needs=needs))


def numbered(path: Path, warnings: Warnings, *, needs: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is a JSON object with the key `needs`.

    Bytes that are not UTF-8 are replaced. Other lines are left out with a warning.
    """
    broken = []
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict) and needs in value:
                    yield number, value
                else:
                    broken.append(number)
    except OSError as error:
        warnings.add(f"{_name(path)}: not readable: {error.strerror}")
    if broken:
        lines_of = "line" if len(broken) == 1 else "lines"
        some = ", ".join(map(str, broken[:5])) + (" …" if len(broken) > 5 else "")
        warnings.add(
            f"{_name(path)}: {len(broken)} {lines_of} left out ({lines_of} {some}): no JSON object with {needs!r}; "
            "half written, or another format"
        )


def count_lines(path: Path) -> int:
    """A last line without a line break counts."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def rollbacks(folder: Path, step: int, warnings: Warnings) -> list[dict[str, Any]]:
    """The retries of a step; none without a dump."""
    return _read(rollback_dump.read, folder / "rollbacks" / f"{step}.parquet", warnings)


def trajectories(folder: Path, step: int, warnings: Warnings) -> list[trajectory_dump.Trajectory]:
    """The rows of our own dump of a step; none without a dump."""
    return _read(trajectory_dump.read, folder / "trajectories" / f"{step}.parquet", warnings)


def outcomes(folder: Path, step: int, warnings: Warnings) -> list[trajectory_dump.Trajectory]:
    """As `trajectories`, but without texts and tokens, which are the largest part of the file."""
    read = partial(trajectory_dump.read, texts=False, tokens=False)
    return _read(read, folder / "trajectories" / f"{step}.parquet", warnings)


def _read(read: Callable[[Path], list[Row]], file: Path, warnings: Warnings) -> list[Row]:
    if not file.is_file():
        return []
    try:
        return read(file)
    except Exception as error:  # a broken file can raise any error
        warnings.add(f"{_name(file)}: left out: {_message(error)}")
        return []


def number(value: Any) -> float | None:
    """The value as a float if it is a finite number or a bool, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return float(value) if isinstance(value, bool) else None
    return float(value) if math.isfinite(value) else None


def _name(path: Path) -> str:
    """The last three parts of the path, which tell the files of a run apart."""
    return "/".join(path.parts[-3:])


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
