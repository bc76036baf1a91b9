"""Tables and figures of a grid: `python -m cleaner_lab.experiments.report RESULTS.parquet --out FOLDER`.

RESULTS.parquet has one row an observation: method, seed, step, metric, value. What the grid was is in the file's own
metadata under `cleaner`, as JSON. FOLDER gets tables.md, headline.png, mechanism.png and final.png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cleaner_lab.experiments import tables
from cleaner_lab.experiments.learning_curves import (
    ACCURACY,
    BASELINE,
    COLUMNS,
    METADATA,
    ResultsError,
    Run,
    curves,
    methods_of,
    runs_of,
)


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows, and what the file says about its grid. Raises ResultsError where it is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ResultsError(f"{path} does not exist; expected a grid's results as parquet")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ResultsError(f"{path} is no readable parquet file: {error}") from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ResultsError(f"{path} lacks the column {missing[0]}; expected {', '.join(COLUMNS)}")
    try:
        about = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
    except ValueError as error:
        raise ResultsError(f"{path}: the metadata 'cleaner' is no JSON: {error}") from None
    for name in ("seed", "step"):
        if not pa.types.is_integer(kind := table.schema.field(name).type):
            raise ResultsError(f"{path}: the column {name} holds {kind}; expected whole numbers")
    frame = table.select(COLUMNS).to_pandas()
    check(frame, path)
    return frame, about


def check(frame: pd.DataFrame, path: Path) -> None:
    """Raises ResultsError where a row is no observation, or says again what another says."""
    if frame.empty:
        raise ResultsError(f"{path} has no rows")
    empty = frame[frame.isna().any(axis=1)]
    if len(empty):
        raise ResultsError(f"{path}: {_row(empty)} has an empty or NaN cell; expected a metric or no row")
    again = frame[frame.duplicated(["method", "seed", "step", "metric"])]
    if len(again):
        raise ResultsError(f"{path}: {_row(again)} is there twice; expected one value a method, seed, step and metric")
    if BASELINE not in set(frame["method"]):
        raise ResultsError(f"{path} has no method {BASELINE!r} to compare with; it has {', '.join(methods_of(frame))}")
    held_out = set(frame.loc[frame["metric"] == ACCURACY, "method"])
    if lacking := [method for method in methods_of(frame) if method not in held_out]:
        raise ResultsError(f"{path}: {lacking[0]} has no {ACCURACY}; expected it at every validation")


def _row(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"row {rows.index[0]} ({first['method']}, seed {first['seed']}, step {first['step']}, {first['metric']})"


def select(frame: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Rows of the methods, in their order; the baseline is always among them."""
    known = methods_of(frame)
    if unknown := [method for method in methods if method not in known]:
        raise ResultsError(f"no method {unknown[0]!r} in the results; expected some of {', '.join(known)}")
    order = list(dict.fromkeys([BASELINE, *methods]))
    return pd.concat([frame[frame["method"] == method] for method in order], ignore_index=True)


def leave_out(frame: pd.DataFrame, least: int) -> tuple[pd.DataFrame, list[Run]]:
    """The rows without runs that end earlier, and these runs. A short one cuts what all are compared on."""
    held_out = curves(frame)
    short = [run for run in runs_of(frame) if run not in held_out or held_out[run].index[-1] < least]
    rest = frame[[run not in short for run in zip(frame["method"], frame["seed"], strict=True)]]
    if BASELINE not in set(rest["method"]):
        raise ResultsError(f"no run of {BASELINE!r} was validated at step {least} or later; lower --min-steps")
    return rest, short


def write(frame: pd.DataFrame, about: dict[str, Any], out: Path, notes: Sequence[str] = ()) -> str:
    """Write all files into the folder, made where it is not there; returns the tables."""
    from cleaner_lab.experiments.figures import FIGURES

    text = tables.report(frame, about, notes)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text(text)
    for name, draw in FIGURES.items():
        draw(frame, out / name)
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cleaner_lab.experiments.report", allow_abbrev=False)
    parser.add_argument("results", type=Path, metavar="RESULTS.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables and figures")
    parser.add_argument("--methods", help="these alone, with commas between; the baseline is always shown")
    parser.add_argument(
        "--min-steps", type=int, default=0, help="leave out runs that end earlier; the tables name them (default: none)"
    )
    parser.add_argument("--max-steps", type=int, help="use no run beyond this step (default: all of it)")
    options = parser.parse_args(argv)
    try:
        frame, about = read(options.results)
        if options.methods is not None:
            frame = select(frame, [name.strip() for name in options.methods.split(",")])
        if options.max_steps is not None:
            frame = frame[frame["step"] <= options.max_steps].reset_index(drop=True)
        frame, short = leave_out(frame, options.min_steps)
        names = ", ".join(f"{method} seed {seed}" for method, seed in short)
        notes = [f"Left out, not validated at step {options.min_steps} or later: {names}."] if short else []
        if options.max_steps is not None:
            notes.insert(0, f"Every run is used up to step {options.max_steps} only.")
        text = write(frame, about, options.out, notes)
    except ResultsError as error:
        sys.exit(f"[cleaner] error: {error}")
    print(text)
    print(f"[cleaner] {options.out}/tables.md, headline.png, mechanism.png, final.png")


if __name__ == "__main__":
    main()
