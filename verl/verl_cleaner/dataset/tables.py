"""Plain-text tables for terminals."""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """rows: header first; the first column is text, the others are numbers or short words."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def percentiles(title: str, values: Sequence[int]) -> str:
    ordered = sorted(values)
    shown = {name: ordered[round(share * (len(ordered) - 1))] for name, share in (("median", 0.5), ("95 %", 0.95))}
    return f"{title}: " + ", ".join(f"{name} {value:,}" for name, value in {**shown, "max": ordered[-1]}.items())
