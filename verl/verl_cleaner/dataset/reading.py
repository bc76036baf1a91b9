"""Rows of a file, one after the other: .parquet, .json, .jsonl and .jsonl.gz, in bounded memory.

JSON is UTF-8, with or without a byte-order mark.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_cleaner.stored import allow_long_integers

BATCH_ROWS = 128
"""Rows in memory at once; a row of a code data set can have megabytes of tests."""

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json")


class Broken(ValueError):
    """A row that cannot be read; the message is the reason without file and row."""


@dataclass(frozen=True, slots=True)
class Identity:
    """number: of the row in its file. source: its data_source."""

    number: int
    source: str


def columns(path: Path) -> list[str]:
    """Names of the columns; in JSON those of the first row that can be read.

    Raises:
        ValueError: the file does not exist, is none of SUFFIXES, cannot be read or has no rows.
    """
    if _suffix(path) == ".parquet":
        names: list[str] = _parquet(path).schema_arrow.names
        return names
    first = next((row for row in rows(path) if isinstance(row, dict)), None)
    if first is None:
        raise ValueError(f"{path}: no row is a JSON object")
    return list(first)


def count(path: Path) -> int | None:
    """Number of rows; None where only reading all of it would tell. Raises as `columns`."""
    if _suffix(path) != ".parquet":
        return None
    number: int = _parquet(path).metadata.num_rows
    return number


def rows(path: Path, only: list[str] | None = None) -> Iterator[dict[str, Any] | Broken]:
    """Every row as plain Python values, or why it cannot be read. only: the columns to read, where not all are needed.

    Raises:
        ValueError: as `columns`.
    """
    suffix = _suffix(path)
    empty = True
    for row in _parquet_rows(path, only) if suffix == ".parquet" else _json_rows(path, suffix):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path} has no rows")


def identities(path: Path, *, skip_broken: bool = False) -> dict[str, Identity]:
    """Every row by its uid, in the file's order; the uid is the column uid, else the row's number.

    skip_broken: leave out rows that cannot be read.

    Raises:
        ValueError: as `columns`, or the column data_source is missing, a row cannot be read or a uid is there twice.
    """
    names = columns(path)
    if "data_source" not in names:
        raise ValueError(f"{path}: the column data_source is missing; found {', '.join(names)}")
    found: dict[str, Identity] = {}
    for number, row in enumerate(rows(path, [name for name in ("data_source", "uid") if name in names])):
        if isinstance(row, Broken):
            if skip_broken:
                continue
            raise ValueError(f"{path}, row {number}: {row}")
        uid = str(number if row.get("uid") is None else row["uid"])
        if uid in found:
            raise ValueError(f"{path}, row {number}: uid {uid!r} is also that of row {found[uid].number}")
        found[uid] = Identity(number, str(row.get("data_source")))
    return found


def _suffix(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a file with one of the suffixes {', '.join(SUFFIXES)}")
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise ValueError(f"{path}: unknown kind of file, expected one of the suffixes {', '.join(SUFFIXES)}")


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except Exception as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error


def _parquet_rows(path: Path, only: list[str] | None) -> Iterator[dict[str, Any]]:
    try:
        for batch in _parquet(path).iter_batches(BATCH_ROWS, columns=only):
            yield from batch.to_pylist()
    except OSError as error:
        # Arrow's errors of a damaged file.
        raise ValueError(f"{path} cannot be read to its end: {error}; fetch it again") from error


def _json_rows(path: Path, suffix: str) -> Iterator[dict[str, Any] | Broken]:
    allow_long_integers()
    if suffix == ".json":
        yield from _json_list(path)
        return
    opened = gzip.open if suffix == ".jsonl.gz" else open
    try:
        # A line that is not UTF-8 must not be the end of the file.
        with opened(path, "rb") as file:
            for line in file:
                if line.removeprefix(codecs.BOM_UTF8).strip():
                    yield _json_object(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read to its end: {error}; fetch it again") from error


def _json_list(path: Path) -> Iterator[dict[str, Any] | Broken]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise ValueError(f"{path} must hold a list of objects, got {type(values).__name__}; JSON Lines end in .jsonl")
    for value in values:
        yield value if isinstance(value, dict) else Broken(f"must be an object, got {type(value).__name__}")


def _json_object(line: bytes) -> dict[str, Any] | Broken:
    try:
        # Files that were put one behind the other have the mark within.
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Broken(f"not UTF-8: {error}; save the file in that encoding")
    except (ValueError, RecursionError) as error:
        return Broken(f"not JSON: {error}")
    return value if isinstance(value, dict) else Broken(f"must be an object, got {type(value).__name__}")
