"""Keep a share of every success-rate bucket of a training set; `bash data_filter.sh` calls this.

Rows are told apart by success rate (0/8 … 8/8) and by code or other. Of each such group floor(count × ratio) rows
stay, where the product is exact: 100 rows × 0.29 are 29. Which ones is decided by a hash of the seed and the row's uid,
so the same seed keeps the same rows on every machine and in whatever order the file has them. The kept rows stay in the
file's order and get the statistics' columns. Rows without statistics are dropped.
"""

import argparse
import hashlib
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from verl_cleaner.dataset import reading, success
from verl_cleaner.dataset.filter_report import Candidate, plot, report
from verl_cleaner.dataset.subset import take
from verl_cleaner.dataset.success import BUCKETS, TOLERANCE, Statistic
from verl_cleaner.reward.sources import Kind, Sources, load

FOLDER = Path("dataset/Open-AgentRL-30K")
DATASET = FOLDER / "Open-AgentRL-30K.parquet"
STATISTICS = FOLDER / "Open-AgentRL-30K.filtered.parquet.success.jsonl"
OUTPUT = "filtered_sr.parquet"
RATIOS = "0.0:0.0,0.125:0.8,0.25:0.9,0.375:1.0,0.5:1,0.625:1,0.75:1,0.875:1,1.0:0.0"


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


def candidates(
    seen: Mapping[str, reading.Identity],
    found: Mapping[str, Statistic],
    sources: Sources,
    *,
    dataset: Path,
    stats: Path,
) -> list[Candidate]:
    """The rows that have statistics. seen: of every row of `dataset`, as `reading.identities` gives them.

    Raises:
        ValueError: an unknown source, or statistics of another data set; names file and row.
    """
    rows: list[Candidate] = []
    for uid, identity in seen.items():
        number, name = identity.number, identity.source
        statistic = found.get(uid)
        if statistic is None:
            continue
        if name != statistic.data_source:
            raise ValueError(
                f"{stats} are statistics of another data set: uid {uid!r} is of {statistic.data_source} there and of "
                f"{name} in {dataset}, row {number}"
            )
        source = sources.find(name, where=f"{dataset}, row {number}")
        rows.append(Candidate(number, name, source.category, source.kind == Kind.CODE, statistic))
    # Statistics of more rows than there are: fine for a part of a data set, which has its uids in a column.
    without = next((uid for uid in found if uid not in seen), None)
    if not rows or (without is not None and "uid" not in reading.columns(dataset)):
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
    """The chosen rows with the statistics' columns."""
    import pyarrow as pa

    types = {
        "uid": pa.string(),
        "successes": pa.int64(),
        "attempts": pa.int64(),
        "success_rate": pa.float64(),
        "avg_score": pa.float64(),
        "keep": pa.bool_(),
    }
    take(dataset, out, {row.number: asdict(row.statistic) for row in chosen}, types)


def main() -> int:
    options = _parse()
    try:
        found = success.read(options.stats)
        seen = reading.identities(options.dataset, skip_broken=options.skip_broken_rows)
        rows = candidates(seen, found, load(options.sources), dataset=options.dataset, stats=options.stats)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kept = choose(rows, options.success_rate_ratios, retain_code=options.retain_code, seed=options.seed)
    print(report(len(seen), rows, kept))
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
    parser.add_argument("--dataset", type=Path, default=DATASET, help="parquet file with the training set")
    written_by = "as recipe/cleaner/rollout_stats.sh writes them"
    parser.add_argument("--stats", type=Path, default=STATISTICS, help=f"success statistics, {written_by}")
    parser.add_argument("--output_dir", type=Path, default=FOLDER, help=f"where {OUTPUT} and its picture go")
    parser.add_argument(
        "--success_rate_ratios", type=_ratios, default=RATIOS, metavar="RATIOS",
        help="share to keep by success rate, rate:ratio,…, or nine numbers for 0/8 to 8/8",
    )  # fmt: skip
    parser.add_argument("--retain_code", action="store_true", help="of code rows drop only never-solved ones")
    parser.add_argument("--seed", type=int, default=42, help="of the choice within a bucket")
    parser.add_argument("--sources", type=Path, help="YAML laid over our table of sources")
    parser.add_argument("--skip_broken_rows", action="store_true", help="leave out rows that cannot be read")
    parser.add_argument("--dry_run", action="store_true", help="print the table and write nothing")
    return parser.parse_args()


def _ratios(text: str) -> tuple[Fraction, ...]:
    try:
        return parse_ratios(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
