"""Rows of a file, one after the other: .parquet, .json, .jsonl and .jsonl.gz, in bounded memory."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH_ROWS = 128
"""Rows in memory at once; a row of a code data set can have megabytes of tests."""

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json")


class Broken(ValueError):
    """A row that cannot be read; the message is the reason without file and row."""


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


def identities(path: Path) -> dict[str, str]:
    """uid -> data_source of every row, in the file's order; the uid is the column uid, else the row's number.

    Raises:
        ValueError: as `columns`, or the column data_source is missing, a row cannot be read or a uid is there twice.
    """
    names = columns(path)
    if "data_source" not in names:
        raise ValueError(f"{path}: the column data_source is missing; found {', '.join(names)}")
    found: dict[str, str] = {}
    for number, row in enumerate(rows(path, [name for name in ("data_source", "uid") if name in names])):
        if isinstance(row, Broken):
            raise ValueError(f"{path}, row {number}: {row}")
        uid = str(number if row.get("uid") is None else row["uid"])
        if uid in found:
            raise ValueError(f"{path}, row {number}: uid {uid!r} is also that of row {list(found).index(uid)}")
        found[uid] = str(row["data_source"])
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
    for batch in _parquet(path).iter_batches(BATCH_ROWS, columns=only):
        yield from batch.to_pylist()


def _json_rows(path: Path, suffix: str) -> Iterator[dict[str, Any] | Broken]:
    if suffix == ".json":
        yield from _json_list(path)
        return
    opened = gzip.open if suffix == ".jsonl.gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield _json_object(line)


def _json_list(path: Path) -> Iterator[dict[str, Any] | Broken]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise ValueError(f"{path} must hold a list of objects, got {type(values).__name__}; JSON Lines end in .jsonl")
    for value in values:
        yield value if isinstance(value, dict) else Broken(f"must be an object, got {type(value).__name__}")


def _json_object(line: str) -> dict[str, Any] | Broken:
    try:
        value = json.loads(line)
    except ValueError as error:
        return Broken(f"not JSON: {error}")
    return value if isinstance(value, dict) else Broken(f"must be an object, got {type(value).__name__}")
