"""Cells and tables in Markdown: shares as percent, differences as percentage points with their interval."""

from collections.abc import Iterable

from cleaner_lab.experiments.learning_curves import Axis
from verl_cleaner.report.intervals import Interval, interval

NONE = "–"


def spread(values: Iterable[float], *, of: int = 0) -> str:
    """of: runs that the method has; where fewer of them have a value, the cell says so."""
    found = interval(values)
    if found is None:
        return NONE
    return percent(found.mean) + ("" if found.sd is None else f" ± {100 * found.sd:.1f}") + _few(found, of)


def difference(values: Iterable[float], *, of: int) -> str:
    """of: as for spread."""
    found = interval(values)
    return NONE if found is None else shown(found) + _few(found, of)


def _few(found: Interval, of: int) -> str:
    return f" ({found.seeds} of {of} seeds)" if found.seeds < of else ""


def shown(found: Interval) -> str:
    mean = f"{100 * found.mean:+.1f}"
    if found.low is None or found.high is None:
        return f"{mean}, one seed: no interval"
    return f"{mean} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def number(value: float) -> str:
    # Not -0.000.
    return f"{round(value, 3) + 0.0:.3f}"


def amount(value: float, axis: Axis) -> str:
    return f"{value / 1e6:.2f} M" if axis is Axis.TOKENS and value >= 1e6 else f"{value:,.0f}"
