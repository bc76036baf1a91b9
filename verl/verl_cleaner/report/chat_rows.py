"""The rows of a file of chat messages: one row a line (JSON lines), or one JSON list."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_cleaner.report import chat
from verl_cleaner.report.dumps import count_lines


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row), where is "line 3" or "item 3". A row that is no JSON is a ValueError that says why."""
    try:
        if (items := _one_list(path)) is not None:
            yield from ((f"item {at}", row) for at, row in enumerate(items, 1))
            return
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for at, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield f"line {at}", json.loads(line)
                except RecursionError:
                    yield f"line {at}", ValueError("no JSON: nested too deeply")
                except ValueError as error:
                    yield f"line {at}", ValueError(f"no JSON: {error}")
    except OSError as error:
        yield "file", ValueError(f"not readable: {error.strerror}")


def count(path: Path) -> int:
    """The number of rows, broken ones included."""
    items = _one_list(path)
    return count_lines(path) if items is None else len(items)


def _one_list(path: Path) -> list[Any] | None:
    """The rows of a file that is one JSON list. None for JSON lines, also if each line is a list of messages."""
    with path.open(encoding="utf-8", errors="replace") as file:
        begin = file.read(4096).lstrip()
        if not begin.startswith("["):
            return None
        file.seek(0)
        first = file.readline()
        try:
            value = json.loads(first)
            return None if chat.is_chat(value) else value
        except ValueError:
            pass
        try:
            return list(json.loads(first + file.read()))
        except (ValueError, RecursionError):
            return None


def is_chat_file(path: Path) -> bool:
    """Whether the first row that is JSON, of the first 20, is one of chat messages."""
    if path.suffix not in (".jsonl", ".json", ".ndjson"):
        return False
    for (_, row), _ in zip(rows(path), range(20), strict=False):
        if not isinstance(row, ValueError):
            return chat.is_chat(row)
    return False
