"""Some rows of a data set as a parquet file of their own, with further columns; read and written in batches."""

import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl_cleaner.dataset import reading

_BATCH_ROWS = 1024


def take(dataset: Path, out: Path, chosen: Mapping[int, Mapping[str, Any]], types: Mapping[str, Any]) -> None:
    """Write the rows with the numbers in `chosen`, in the file's order; the same input gives the same bytes.

    Rows that are not chosen need not be readable.

    Args:
        chosen: row number -> values of the further columns.
        types: their Arrow types; such a column replaces one of its name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.unfinished")
    writer, first = None, 0
    with tqdm(total=len(chosen), desc=out.name, mininterval=2) as progress:
        for batch in _batches(dataset, chosen):
            inside = [i for i in range(batch.num_rows) if first + i in chosen]
            table = pa.Table.from_batches([batch]).take(pa.array(inside, pa.int64()))
            for name, kind in types.items():
                column = pa.array([chosen[first + i][name] for i in inside], kind)
                place = table.schema.get_field_index(name)
                table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
            writer = writer or pq.ParquetWriter(unfinished, table.schema)
            writer.write_table(table)
            first += batch.num_rows
            progress.update(len(inside))
    assert writer is not None, "a file without rows was refused before"
    writer.close()
    os.replace(unfinished, out)


def _batches(dataset: Path, chosen: Container[int]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    if dataset.suffix == ".parquet":
        yield from pq.ParquetFile(dataset).iter_batches(_BATCH_ROWS)
    else:
        yield from _table(dataset, chosen).to_batches(_BATCH_ROWS)


def _table(dataset: Path, chosen: Container[int]) -> Any:
    """Rows of JSON: their structs need one schema, and a row may lack columns; one that cannot be read is empty.

    Raises:
        ValueError: a chosen row cannot be read, or columns are of several types.
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for number, row in enumerate(reading.rows(dataset)):
        if isinstance(row, reading.Broken):
            if number in chosen:
                raise ValueError(f"{dataset}, row {number}: {row}")
            row = {}
        rows.append(row)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except pa.ArrowException as error:
            raise ValueError(
                f"{dataset}: the values of {name} do not fit one column ({error}); make them all of one type"
            ) from error
    return pa.table(columns)
