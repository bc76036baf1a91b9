"""What a filter did: rows before and after, as a table and as a picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_cleaner.dataset.success import BUCKETS, Statistic
from verl_cleaner.report.tables import format_table


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of the data set that has statistics. number: in the file."""

    number: int
    source: str
    category: str
    code: bool
    statistic: Statistic


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
