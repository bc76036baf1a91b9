"""The data of the page's charts, one for each panel. A chart without data in any run is left out.

A chart shows groups of runs. For a group of one run it has the run's values; for several runs, their mean and range at
each step.
"""

from collections.abc import Sequence
from typing import Any

from verl_cleaner.report.panels import PANELS, Form, Line, Metrics, Panel
from verl_cleaner.report.run import Run

MAX_POINTS = 400


def with_rollback(metrics: Metrics) -> bool:
    """Whether this validation rolled back failed calls."""
    return metrics.get("val-aux/rollback/global_triggered", 0.0) > 0


def chart_data(groups: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
    """The charts, as the page's script takes them. `run` of a series is the number of its group."""
    made = [(p, _lines(p, groups) if p.form == Form.LINES else _parts(p, groups)) for p in PANELS]
    return [
        {"title": p.title, "note": p.note, "unit": p.unit, "form": str(p.form), "section": p.section, "floor": p.floor}
        | data
        for p, data in made
        if data["series"]
    ]


def _lines(panel: Panel, groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    series = []
    for number, runs in enumerate(groups):
        for line in panel.lines:
            steps = sorted({step for run in runs for step in run.steps})
            points = [_point(line, step, [run.steps[step] for run in runs if step in run.steps]) for step in steps]
            points = thin([point for point in points if point[1] is not None])
            if points:
                series.append({"run": number, "label": line.label, "dash": str(line.dash), "points": points})
    return {"series": series}


def _point(line: Line, step: int, runs: Sequence[Metrics]) -> list[float | None]:
    """[step, value] or [step, value, low, high]. low, high: the range of several runs, or one run's band."""
    values = [value for metrics in runs if (value := line.read(metrics)) is not None]
    if not values:
        return [step, None]
    if len(values) > 1:
        return [step, *map(round_, (sum(values) / len(values), min(values), max(values)))]
    band = [runs[0].get(name) for name in (line.low, line.high) if name]
    return [step, *map(round_, (values[0], *band))]


def _parts(panel: Panel, groups: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """STACK: the parts at each step, as means over the group's runs. BARS: the sums of these over the steps."""
    assert panel.parts is not None
    series, totals = [], dict[str, float]()
    for number, runs in enumerate(groups):
        steps: dict[int, dict[str, float]] = {}
        for step in sorted({step for run in runs for step in run.steps}):
            found = [parts for run in runs if step in run.steps and (parts := panel.parts.read(run.steps[step]))]
            if found:
                names = dict.fromkeys(name for parts in found for name in parts)
                steps[step] = {name: sum(p.get(name, 0.0) for p in found) / len(found) for name in names}
        if not steps:
            continue
        sums: dict[str, float] = {}
        for parts in steps.values():
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
                totals[name] = totals.get(name, 0.0) + value
        kept = thin(list(steps.items())) if panel.form == Form.STACK else []
        series.append(
            {"run": number, "sums": sums, "steps": [[s, {n: round_(v) for n, v in f.items()}] for s, f in kept]}
        )
    names_ = sorted(totals) if panel.form == Form.BARS else sorted(totals, key=lambda name: -totals[name])
    return {"series": series, "parts": names_}


def all_metrics(runs: Sequence[Run], limit: int) -> dict[str, list[list[list[float | None]]]]:
    """All logged metrics: name -> for each run a list of at most `limit` pairs [step, value]."""
    keys = sorted({key for run in runs for metrics in run.steps.values() for key in metrics})
    return {
        key: [thin([[step, round_(m[key])] for step, m in run.steps.items() if key in m], limit) for run in runs]
        for key in keys
    }


def thin(points: list[Any], limit: int = MAX_POINTS) -> list[Any]:
    """At most `limit` of the points (limit >= 2), evenly chosen; the first and the last are included."""
    if len(points) <= limit:
        return points
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def round_(value: float | None) -> float | None:
    """Rounded to five significant digits, which is more than a chart shows."""
    return None if value is None else float(f"{value:.5g}")
