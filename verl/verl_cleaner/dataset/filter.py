"""Keep a share of every success-rate bucket of a training set; `bash data_filter.sh` calls this.

Rows are told apart by success rate (0/8 … 8/8) and by code or other. Of each such group floor(count × ratio) rows
stay, where the product is exact: 100 rows × 0.29 are 29. Which ones is decided by a hash of the seed and the row's uid,
so the same seed keeps the same rows on every machine and in whatever order the file has them. The kept rows stay in the
file's order and get the statistics' columns. Rows without statistics are dropped.
"""

import argparse
import hashlib
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl_cleaner.dataset import reading, statistics
from verl_cleaner.dataset.sources import Kind, Sources, load
from verl_cleaner.dataset.statistics import BUCKETS, TOLERANCE, Statistic
from verl_cleaner.dataset.tables import format_table

FOLDER = Path("dataset/Open-AgentRL-30K")
OUTPUT = "filtered_sr.parquet"
RATIOS = "0.0:0.0,0.125:0.8,0.25:0.9,0.375:1.0,0.5:1,0.625:1,0.75:1,0.875:1,1.0:0.0"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of the data set that has statistics. number: in the file."""

    number: int
    source: str
    category: str
    code: bool
    statistic: Statistic


def parse_ratios(text: str) -> tuple[Fraction, ...]:
    """The share to keep of each bucket, 0/8 … 8/8: `rate:ratio,…` for every rate, or nine plain numbers.

    Raises:
        ValueError: names the entry.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if not any(":" in entry for entry in entries):
        if len(entries) != BUCKETS + 1:
            raise ValueError(f"success_rate_ratios must have 9 numbers, for 0/8 to 8/8, got {len(entries)}: {text}")
        return tuple(_ratio(entry) for entry in entries)
    ratios: dict[int, Fraction] = {}
    for entry in entries:
        rate, separator, ratio = entry.partition(":")
        if not separator:
            raise ValueError(f"success_rate_ratios: {entry!r} must be rate:ratio as the others are")
        bucket = _bucket(rate)
        if bucket in ratios:
            raise ValueError(f"success_rate_ratios: the bucket {bucket}/8 is given twice, the second time as {entry!r}")
        ratios[bucket] = _ratio(ratio)
    missing = [f"{bucket / BUCKETS:g}" for bucket in range(BUCKETS + 1) if bucket not in ratios]
    if missing:
        raise ValueError(f"success_rate_ratios lacks the buckets {', '.join(missing)}; write e.g. {missing[0]}:1.0")
    return tuple(ratios[bucket] for bucket in range(BUCKETS + 1))


def _bucket(text: str) -> int:
    try:
        rate = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"success_rate_ratios: {text!r} is no number") from None
    bucket = round(rate * BUCKETS)
    if not 0 <= bucket <= BUCKETS or abs(rate - Fraction(bucket, BUCKETS)) > TOLERANCE:
        raise ValueError(f"success_rate_ratios: {text} is no bucket, expected one of 0, 0.125, 0.25 … 1")
    return bucket


def _ratio(text: str) -> Fraction:
    try:
        ratio = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"success_rate_ratios: {text!r} is no number") from None
    if not 0 <= ratio <= 1:
        raise ValueError(f"success_rate_ratios must be in [0, 1], got {text}")
    return ratio


def candidates(dataset: Path, found: Mapping[str, Statistic], sources: Sources, *, stats: Path) -> list[Candidate]:
    """The rows of `dataset` that have statistics.

    Raises:
        ValueError: a uid twice, an unknown source, or statistics of another data set; names file and row.
    """
    names = reading.columns(dataset)
    if "data_source" not in names:
        raise ValueError(f"{dataset}: the column data_source is missing; found {', '.join(names)}")
    only = ["data_source", *(["uid"] if "uid" in names else [])]
    seen: dict[str, int] = {}
    rows: list[Candidate] = []
    for number, row in enumerate(reading.rows(dataset, only)):
        if isinstance(row, ValueError):
            raise ValueError(f"{dataset}, row {number}: {row}")
        uid = str(number if row.get("uid") is None else row["uid"])
        if uid in seen:
            raise ValueError(f"{dataset}, row {number}: uid {uid!r} is also that of row {seen[uid]}")
        seen[uid] = number
        statistic = found.get(uid)
        if statistic is None:
            continue
        name = str(row["data_source"])
        if name != statistic.data_source:
            raise ValueError(
                f"{stats} are statistics of another data set: uid {uid!r} is of {statistic.data_source} there and of "
                f"{name} in {dataset}, row {number}"
            )
        source = sources.find(name, where=f"{dataset}, row {number}")
        rows.append(Candidate(number, name, source.category, source.kind == Kind.CODE, statistic))
    without = next((uid for uid in found if uid not in seen), None)
    if not rows or (without is not None and "uid" not in names):
        raise ValueError(
            f"{stats} are statistics of another data set: uid {without!r} is not in {dataset}, "
            f"which has {len(seen):,} rows"
        )
    return rows


def choose(rows: Sequence[Candidate], ratios: Sequence[Fraction], *, retain_code: bool, seed: int) -> list[Candidate]:
    """floor(count × ratio) of every bucket, for code and for other rows apart; in the order of `rows`.

    retain_code: all code rows that were solved at least once.
    """
    groups: dict[tuple[int, bool], list[Candidate]] = defaultdict(list)
    for row in rows:
        groups[row.statistic.bucket, row.code].append(row)
    kept: set[int] = set()
    for (bucket, code), group in groups.items():
        ratio = Fraction(1) if retain_code and code and bucket > 0 else ratios[bucket]
        group.sort(key=lambda row: hashlib.sha256(f"{seed} {row.statistic.uid}".encode()).digest())
        kept.update(row.number for row in group[: math.floor(len(group) * ratio)])
    return [row for row in rows if row.number in kept]


def write(dataset: Path, out: Path, chosen: Sequence[Candidate]) -> None:
    """The chosen rows with the statistics' columns, read and written in batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Rows are numbered in the file's order.
    waiting = {row.number: row.statistic for row in chosen}
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.unfinished")
    writer, first = None, 0
    with tqdm(total=len(chosen), desc=out.name, mininterval=2) as progress:
        for batch in _batches(dataset):
            numbers = [i for i in range(batch.num_rows) if first + i in waiting]
            part = pa.Table.from_batches([batch]).take(pa.array(numbers, pa.int64()))
            table = _with_statistics(part, [waiting[first + i] for i in numbers])
            writer = writer or pq.ParquetWriter(unfinished, table.schema)
            writer.write_table(table)
            first += batch.num_rows
            progress.update(len(numbers))
    assert writer is not None, "a file without rows was refused before"
    writer.close()
    os.replace(unfinished, out)


def _batches(dataset: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if dataset.suffix == ".parquet":
        yield from pq.ParquetFile(dataset).iter_batches(1024)
    else:
        # Structs of JSON rows need one schema.
        yield from pa.Table.from_pylist(list(reading.rows(dataset))).to_batches(1024)


def _with_statistics(table: Any, found: Sequence[Statistic]) -> Any:
    import pyarrow as pa

    types = {
        "uid": pa.string(),
        "successes": pa.int64(),
        "attempts": pa.int64(),
        "success_rate": pa.float64(),
        "avg_score": pa.float64(),
        "keep": pa.bool_(),
    }
    for name, kind in types.items():
        column = pa.array([asdict(statistic)[name] for statistic in found], kind)
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return table


def report(total: int, rows: Sequence[Candidate], kept: Sequence[Candidate]) -> str:
    """Before and after by bucket, source and category."""
    parts = [f"{total:,} rows, {len(rows):,} with statistics, {len(kept):,} kept"]
    for title, key in (
        ("success rate", lambda row: f"{row.statistic.bucket}/8 {'code' if row.code else 'other'}"),
        ("source", lambda row: row.source),
        ("category", lambda row: row.category),
    ):
        before, after = Counter(map(key, rows)), Counter(map(key, kept))
        lines = [[title, "before", "after", "kept"]]
        lines += [
            [name, f"{before[name]:,}", f"{after[name]:,}", f"{after[name] / before[name]:.1%}"]
            for name in sorted(before)
        ]
        parts.append(format_table(lines))
    return "\n\n".join(parts)


def plot(rows: Sequence[Candidate], kept: Sequence[Candidate], path: Path) -> None:
    """Rows by success rate, before and after, by category."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, constrained_layout=True)
    categories = sorted({row.category for row in rows})
    for axis, part, title in zip(axes, (rows, kept), ("before", "after"), strict=True):
        base = [0] * (BUCKETS + 1)
        for category in categories:
            counts = Counter(row.statistic.bucket for row in part if row.category == category)
            heights = [counts[bucket] for bucket in range(BUCKETS + 1)]
            axis.bar(range(BUCKETS + 1), heights, bottom=base, label=category)
            base = [below + height for below, height in zip(base, heights, strict=True)]
        axis.set_title(f"{title}: {len(part):,} rows")
        axis.set_xticks(range(BUCKETS + 1), [f"{bucket}/8" for bucket in range(BUCKETS + 1)])
        axis.set_xlabel("solved attempts")
    axes[0].set_ylabel("rows")
    axes[0].legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def main() -> int:
    options = _parse()
    try:
        found = statistics.read(options.stats)
        rows = candidates(options.dataset, found, load(options.sources), stats=options.stats)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kept = choose(rows, options.success_rate_ratios, retain_code=options.retain_code, seed=options.seed)
    print(report(reading.count(options.dataset) or len(rows), rows, kept))
    if options.dry_run:
        print("\ndry run: nothing written")
        return 0
    out = options.output_dir / OUTPUT
    write(options.dataset, out, kept)
    plot(rows, kept, out.with_suffix(".png"))
    print(f"\n{out}: {len(kept):,} rows; distribution: {out.with_suffix('.png')}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="data_filter.sh",
        description="Keep a share of every success-rate bucket of a training set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = FOLDER / "Open-AgentRL-30K.parquet"
    parser.add_argument("--dataset", type=Path, default=data, help="parquet file with the training set")
    parser.add_argument(
        "--stats", type=Path, default=FOLDER / "Open-AgentRL-30K.filtered.parquet.success.jsonl",
        help="statistics, as recipe/cleaner/rollout_stats.sh writes them",
    )  # fmt: skip
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help=f"where {OUTPUT} and its picture go")
    parser.add_argument(
        "--success_rate_ratios", type=_ratios, default=RATIOS, metavar="RATIOS",
        help="share to keep by success rate, rate:ratio,…, or nine numbers for 0/8 to 8/8",
    )  # fmt: skip
    parser.add_argument("--retain_code", action="store_true", help="of code rows drop only never-solved ones")
    parser.add_argument("--seed", type=int, default=42, help="of the choice within a bucket")
    parser.add_argument("--sources", type=Path, help="YAML laid over our table of sources")
    parser.add_argument("--dry_run", action="store_true", help="print the table and write nothing")
    return parser.parse_args()


def _ratios(text: str) -> tuple[Fraction, ...]:
    try:
        return parse_ratios(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
