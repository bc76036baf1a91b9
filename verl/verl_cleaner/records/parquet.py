"""Parquet files whose columns a schema documents; a reader sees a whole file or none."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Schema = Mapping[str, tuple[str, str]]
"""Column -> (Arrow type, meaning)."""


def write(path: Path, rows: Sequence[Mapping[str, Any]], schema: Schema) -> None:
    """Columns that a row lacks are null."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    columns = pyarrow.schema([(name, _arrow(kind)) for name, (kind, _) in schema.items()])
    table = pyarrow.Table.from_pylist([{name: plain(row.get(name)) for name in schema} for row in rows], columns)
    with partial.open("wb") as file:
        pyarrow.parquet.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read(path: Path, *, without: Sequence[str] = ()) -> tuple[set[str], list[dict[str, Any]]]:
    """The names of the columns that the file has, and its rows, without some of the columns.

    Raises:
        ValueError: the file is broken.
    """
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.read_table(path, columns=[name for name in names if name not in without])
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is no whole Parquet file: {error}") from error
    return set(names), table.to_pylist()


def plain(value: Any) -> Any:
    """Tuples as lists, enum members as their values, and no lone surrogates, which UTF-8 cannot write."""
    if isinstance(value, str):
        return str(value).encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _arrow(kind: str) -> Any:
    import pyarrow as pa

    attempt = [("turn", pa.int64()), ("kinds", pa.list_(pa.string())), ("seconds", pa.list_(pa.float64()))]
    types = {
        "list<attempt>": pa.list_(pa.struct(attempt)),
        "list<list<int64>>": pa.list_(pa.list_(pa.int64())),
        "list<string>": pa.list_(pa.string()),
        "list<int8>": pa.list_(pa.int8()),
        "list<float>": pa.list_(pa.float32()),
    }
    return types.get(kind) or kind
